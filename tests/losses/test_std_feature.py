"""The plain feature loss."""

import pytest
import torch

from kdsr_arch.losses.feature_loss import FeatureLoss


def test_values_by_hand():
    student, teacher = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[2.0, 0.0]]]])
    assert FeatureLoss()(student, teacher) == pytest.approx(5.0)
    assert FeatureLoss(criterion="l1")(student, teacher) == pytest.approx(2.0)
    assert FeatureLoss(normalize="teacher_rms")(student, teacher) == pytest.approx(2.5)  # rms^2 of the teacher is 2
