"""DRVSR's term: weights and values by hand."""

import pytest
import torch

from kdsr_arch.losses.steps_loss import StepsLoss
from tests.helpers.messages import refuses


def test_published_weights_of_three_steps():
    gt = torch.rand(2, 1, 8, 8)
    off = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1, 1)
    loss = StepsLoss()(gt.unsqueeze(1) + off, gt)
    assert loss.item() == pytest.approx((2 * 0.01 + 3 * 0.04 + 4 * 0.09) / 9, rel=1e-5)


def test_other_weights_and_a_single_step():
    gt = torch.rand(1, 1, 4, 4)
    steps = torch.stack([gt + 1, gt + 2], 1)
    assert StepsLoss(first=0)(steps, gt).item() == pytest.approx(4, rel=1e-5)
    assert StepsLoss()(steps[:, :1], gt).item() == pytest.approx(1, rel=1e-5)


def test_bad_use_is_refused():
    with refuses("StepsLoss", "steps", (1, 1, 4, 4)):
        StepsLoss()(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4))
    with refuses("StepsLoss", "first", "last"):
        StepsLoss(first=0, last=0)
