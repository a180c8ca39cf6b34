"""RSDN's term: values by hand."""

import pytest
import torch

from kdsr_arch.losses.structure_detail_loss import StructureDetailLoss
from kdsr_arch.ops.structure import structure_of
from tests.helpers.messages import refuses


def test_it_is_zero_where_both_images_are_those_of_the_truth():
    gt = torch.rand(2, 3, 8, 8)
    structure = structure_of(gt)
    loss = StructureDetailLoss(eps=1e-6)([structure, gt - structure], [gt, gt])
    assert loss.item() == pytest.approx(2 * 1e-3, rel=1e-3)  # sqrt(eps), twice


def test_both_distances_add_up():
    gt = torch.rand(2, 3, 8, 8)
    structure = structure_of(gt)
    loss = StructureDetailLoss(eps=0)([structure + 0.25, gt - structure - 0.5], [gt, gt])
    assert loss.item() == pytest.approx(0.75, rel=1e-5)


def test_other_taps_are_refused():
    with refuses("StructureDetailLoss", "structure", "detail"):
        StructureDetailLoss()([torch.rand(1, 3, 8, 8)], [torch.rand(1, 3, 8, 8)])
