"""ECO: input and target by hand at the beginning, half way, and at the end."""

import pytest
import torch
from torch import nn

from kdsr_arch.losses.base import Context
from kdsr_arch.losses.eco_loss import ECOLoss
from kdsr_arch.ops.bicubic import imresize
from tests.helpers.messages import refuses


def nearest(x):
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


@pytest.mark.parametrize(("iteration", "share"), [(0, 0), (50, 0.5), (100, 1), (400, 1)])
@pytest.mark.parametrize("mix_input", [True, False])
def test_by_hand(iteration, share, mix_input):
    lq, gt, taught = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8) * 2 - 0.5
    context = Context(
        lq, gt, torch.tensor(float(iteration)), 2, nearest, nearest, None, None, nn.Identity(), lambda net, x: net(x)
    )
    inside = taught.clamp(0, 1)
    given = (1 - share) * imresize(inside, 0.5) + share * lq if mix_input else lq
    expected = (nearest(given) - (1 - share) * inside - share * gt).abs().mean()
    assert ECOLoss(iters=100, mix_input=mix_input)([taught], context).item() == pytest.approx(expected.item())


def test_what_it_refuses():
    context = Context(
        torch.rand(1, 3, 4, 4),
        torch.rand(1, 3, 8, 8),
        torch.tensor(1.0),
        2,
        nearest,
        nearest,
        None,
        None,
        nn.Identity(),
        lambda net, x: net(x),
    )
    with refuses("ECOLoss", "iters"):
        ECOLoss(iters=0)
    with refuses("ECOLoss", "mix_input"):
        ECOLoss(iters=9)([torch.rand(1, 1, 8, 8)], context)
