"""The weight average: BasicSR's formula for parameters, the current values for buffers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from kdsr_arch.optim.update import EMA


def test_parameters_follow_basicsrs_formula_and_buffers_are_copied(device: torch.device) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).to(device)
    average = EMA(net, 0.9)
    expected = {k: p.detach().clone() for k, p in net.named_parameters()}
    for _ in range(3):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        net(torch.randn(2, 2, 4, 4, device=device))  # moves the statistics
        average.update(net)
        for k, p in net.named_parameters():
            expected[k].mul_(0.9).add_(p.data, alpha=1 - 0.9)
    for k, p in average.net.named_parameters():
        assert torch.equal(p, expected[k])
        assert not p.requires_grad
    for (k, mine), theirs in zip(average.net.named_buffers(), net.buffers(), strict=True):
        assert torch.equal(mine, theirs), k
    assert average.net[1].num_batches_tracked == 3


def test_what_was_put_in_the_place_of_a_buffer_or_parameter_is_followed_and_shared_weights_count_once() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    net[1].weight = net[0].weight
    average = EMA(net, 0.5)
    average.update(net)
    before = net[0].weight.detach().clone()
    net[0].weight = net[1].weight = nn.Parameter(torch.full((2, 2), 3.0))
    net[2].running_mean = torch.tensor([5.0, 6.0])
    average.update(net)
    torch.testing.assert_close(average.net[1].weight, (before + 3) / 2)
    assert average.net[0].weight is average.net[1].weight
    assert torch.equal(average.net[2].running_mean, net[2].running_mean)
    other = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    other[1].weight = other[0].weight
    before = average.net[0].weight.detach().clone()
    average.update(other)
    torch.testing.assert_close(average.net[0].weight, (before + other[0].weight) / 2)


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_with_normed_weights_of_the_older_kind_is_followed(norm: Callable[[nn.Module], nn.Module]) -> None:
    net = nn.Sequential(norm(nn.Conv2d(2, 3, 1)))
    images = torch.randn(1, 2, 4, 4)
    net(images)  # in training, which leaves a weight with a gradient behind
    average = EMA(net, 0.5)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)
    net(images)
    for _ in range(30):
        average.update(net)
    torch.testing.assert_close(average.net(images), net.eval()(images))
    assert not average.net[0].weight.requires_grad


def test_average_stays_in_eval_mode_and_apart() -> None:
    net = nn.BatchNorm2d(1).train()
    average = EMA(net, 0.5)
    assert not average.net.training
    net(torch.randn(2, 1, 2, 2))
    assert average.net.running_mean == 0
