"""The weight average: BasicSR's formula for parameters, the current values for buffers."""

from __future__ import annotations

import torch
from torch import nn

from kdsr_arch.optim.ema import ExponentialAverage


def test_parameters_follow_basicsrs_formula_and_buffers_are_copied() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    average = ExponentialAverage(net, 0.9)
    expected = {k: p.detach().clone() for k, p in net.named_parameters()}
    for _ in range(3):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        net(torch.randn(2, 2, 4, 4))  # moves the statistics
        average.update(net)
        for k, p in net.named_parameters():
            expected[k].mul_(0.9).add_(p.data, alpha=1 - 0.9)
    for k, p in average.net.named_parameters():
        assert torch.equal(p, expected[k])
        assert not p.requires_grad
    for (k, mine), theirs in zip(average.net.named_buffers(), net.buffers(), strict=True):
        assert torch.equal(mine, theirs), k
    assert average.net[1].num_batches_tracked == 3


def test_average_stays_in_eval_mode_and_apart() -> None:
    net = nn.BatchNorm2d(1).train()
    average = ExponentialAverage(net, 0.5)
    assert not average.net.training
    net(torch.randn(2, 1, 2, 2))
    assert average.net.running_mean == 0
    average.copy_from(net)
    assert torch.equal(average.net.running_mean, net.running_mean)
