"""Optimizers by name; gradients' norm and clipping against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdsr_arch.optim.optimizers import optimizer_names
from kdsr_arch.optim.update import build_optimizer, clip_gradients, gradient_norm
from kdsr_arch.options.schema_train import OptimizerOptions
from tests.helpers.messages import refuses


@pytest.mark.parametrize("name", optimizer_names())
def test_every_named_optimizer_takes_a_step(name: str) -> None:
    net = nn.Linear(3, 2)
    before = net.weight.detach().clone()
    params = [net.weight] if name == "Muon" else net.parameters()  # Muon trains matrices only
    optimizer = build_optimizer(params, OptimizerOptions(type=name, lr=0.1))
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(net.weight, before)


def test_keywords_reach_the_optimizer() -> None:
    options = OptimizerOptions(type="AdamW", lr=0.1, betas=[0.8, 0.9], eps=None)
    optimizer = build_optimizer(nn.Linear(1, 1).parameters(), options)
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["eps"] == 1e-8


@pytest.mark.parametrize(
    ("opt", "names"),
    [
        ({"type": "Adamm", "lr": 0.1}, ["train.optim_g.type", "'Adamm'", "'Adam'"]),
        ({"type": "LBFGS"}, ["train.optim_g.type", "'LBFGS'"]),
        ({"type": "Adam", "learning_rate": 0.1}, ["train.optim_g.learning_rate", "Adam"]),
        ({"type": "Adam", "eps": -1.0}, ["train.optim_g", "Adam", "-1.0"]),
    ],
)
def test_faults_are_told(opt: dict, names: list[str]) -> None:
    with refuses(*names):
        build_optimizer(nn.Linear(1, 1).parameters(), OptimizerOptions.model_validate(opt))


def test_nothing_to_train_is_told() -> None:
    with refuses("train.optim_g"):
        build_optimizer([], OptimizerOptions(type="Adam", lr=0.1))


@pytest.mark.parametrize("limit", [0.5, 1e3, None])
def test_clipping_equals_torchs(limit: float | None) -> None:
    params = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))]
    for p in params:
        p.grad = torch.randn_like(p)
    mine = [p.grad.clone() for p in params]
    expected = nn.utils.clip_grad_norm_(params, limit or float("inf"))
    norm = gradient_norm(mine)
    clip_gradients(mine, norm, limit)
    assert norm == pytest.approx(expected)
    for a, p in zip(mine, params, strict=True):
        torch.testing.assert_close(a, p.grad)
