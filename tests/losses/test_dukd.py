"""DUKD: transformations that are undone, and values by hand with networks that repeat pixels."""

import pytest
import torch
from torch import nn

from kdsr_arch.losses.base import Context
from kdsr_arch.losses.dukd_loss import LUMA_SUM, DUKDLoss, cells_of, changed, draw, undone
from kdsr_arch.ops.bicubic import imresize
from kdsr_arch.ops.color import rgb_to_y
from tests.helpers.messages import refuses


def repeat(factor):
    return lambda x: x.repeat_interleave(2, -1).repeat_interleave(2, -2) * factor


def context(lq, gt, student=1.0, teacher=2.0):
    clock = torch.tensor(1.0)
    return Context(
        lq,
        gt,
        clock,
        2,
        repeat(student),
        torch.no_grad()(repeat(teacher)),
        None,
        None,
        nn.Identity(),
        lambda net, x: net(x),
    )


def batch(count=2, channels=3):
    gt = torch.rand(count, channels, 8, 8)
    return imresize(gt, 0.5), gt


ALL = torch.tensor([[bool(n >> part & 1) for n in range(16)] for part in range(4)]).view(4, 16, 1, 1, 1)


def test_every_change_is_undone():
    images = torch.rand(16, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(undone(changed(images, ALL), ALL), images, rtol=0, atol=1e-15)


def test_changes_by_hand():
    image = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]])
    only = torch.eye(4, dtype=torch.bool).view(4, 4, 1, 1, 1)
    assert changed(image.expand(4, 1, 2, 2), only)[:, 0].tolist() == [
        [[1, 0.75], [0.5, 0]], [[0.5, 1], [0, 0.25]], [[0.25, 0], [1, 0.5]], [[0, 0.5], [0.25, 1]],
    ]  # fmt: skip


def test_inversion_of_rgb_is_undone_in_luma():
    images, invert = torch.rand(16, 3, 6, 6), ALL
    torch.testing.assert_close(undone(rgb_to_y(changed(images, invert)), invert, LUMA_SUM), rgb_to_y(images))


def test_each_part_is_drawn_as_often_as_asked():
    torch.manual_seed(0)
    assert draw(torch.zeros(20000, 1, 1, 1), 0.3).float().mean((1, 2, 3, 4)).tolist() == pytest.approx(
        [0.3] * 4, abs=0.02
    )


def test_cells_are_those_of_the_ground_truth():
    gt = torch.arange(64.0).view(1, 1, 8, 8)
    cells = cells_of(gt, torch.zeros(1, 1, 4, 4), 4)
    assert sorted(cells[:, 0, 0, 0].tolist()) == [0, 4, 32, 36]
    first = next(cell for cell in cells if cell[0, 0, 0] == 36)
    assert torch.equal(first[0], gt[0, 0, 4:, 4:])


@pytest.mark.parametrize("probability", [0, 0.5])
def test_zoom_in_by_hand(probability):
    """Repetition commutes with flips and transposition: where nothing is inverted, |u - 2u| = u is left."""
    lq, gt = batch(1)
    loss = DUKDLoss(zoom_in=4, zoom_out=False, probability=0)(context(lq, gt))
    assert loss.item() == pytest.approx(gt.mean().item())
    equal = DUKDLoss(zoom_in=4, zoom_out=False, probability=probability)(context(lq, gt, teacher=1.0))
    assert equal.item() == pytest.approx(0, abs=1e-6)


def test_zoom_out_by_hand():
    lq, gt = batch()
    sr = repeat(1)(imresize(lq, 0.5))
    expected = 5 * (sr - lq).abs().mean() + sr.abs().mean()
    assert DUKDLoss(zoom_in=0)(context(lq, gt)).item() == pytest.approx(expected.item())


def test_what_it_refuses():
    lq, gt = batch()
    with refuses("DUKDLoss", "square"):
        DUKDLoss()(context(lq[..., :2], gt))
    with refuses("zoom_in", 4, 5):
        DUKDLoss(zoom_in=5)(context(lq, gt))
    with refuses("zoom_in"):
        DUKDLoss(zoom_in=0, zoom_out=False)
