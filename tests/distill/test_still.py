"""What is frozen stands still: parameters, and the statistics of normalization inside it; also across a resume."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from kdsr_arch.distill.stages import hold, keepers
from kdsr_arch.distill.task import DistillTask
from kdsr_arch.infer.traits import Traits
from tests.helpers.options import make_task


class Normed(nn.Module):
    """Two halves with batch and spectral normalization in each; x2."""

    def __init__(self) -> None:
        super().__init__()
        self.head = self._half(3, 8)
        self.tail = self._half(8, 12)
        self.traits = Traits("image", 2)

    @staticmethod
    def _half(inside: int, outside: int) -> nn.Module:
        new, old = (nn.Conv2d(n, outside, 3, padding=1) for n in (inside, outside))
        parts = {"new": parametrizations.spectral_norm(new), "old": spectral_norm(old), "bn": nn.BatchNorm2d(outside)}
        return nn.Sequential(OrderedDict({**parts, "drop": nn.Dropout(0.1)}))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_shuffle(self.tail(self.head(x)), 2)


STAGES = [{"iters": 2, "freeze": ["head"]}, {"iters": 2}, {"iters": 2, "freeze": ["tail"]}]


def batch(count: int) -> dict[str, torch.Tensor]:
    return {"lq": torch.rand(count, 3, 8, 8), "gt": torch.rand(count, 3, 16, 16)}


def built() -> tuple[Normed, DistillTask, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = Normed()
    task = make_task(net, None, {"pixel_opt": {"type": "L1Loss"}, "stages": STAGES}, batch(1)).train()
    return net, task, torch.optim.SGD(net.parameters(), lr=0.1)


def step(task: DistillTask, optimizer: torch.optim.Optimizer, iteration: int) -> None:
    torch.manual_seed(iteration)
    task.set_stage(iteration)
    optimizer.zero_grad(set_to_none=True)
    sum(task(batch(2), iteration).losses.values()).backward()
    optimizer.step()


def moved(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {key.partition(".")[0] for key in before if not torch.equal(before[key], after[key])}


def copied(net: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


def test_nothing_in_a_frozen_half_moves_and_everything_in_the_other_does() -> None:
    net, task, optimizer = built()
    both = {"head", "tail"}
    for iteration, expected in ((1, {"tail"}), (2, {"tail"}), (3, both), (4, both), (5, {"head"})):
        before = copied(net)
        step(task, optimizer, iteration)
        assert moved(before, copied(net)) == expected, iteration
        stats = {k for k in before if k.endswith(("running_mean", "_u", "num_batches_tracked"))}
        changed = {k.partition(".")[0] for k in stats if not torch.equal(before[k], net.state_dict()[k])}
        assert changed == expected and len(stats) == 8


def test_a_validation_that_calls_train_afterwards_thaws_nothing() -> None:
    net, task, optimizer = built()
    step(task, optimizer, 1)
    net.eval()
    net.train()
    before = copied(net)
    step(task, optimizer, 2)
    assert moved(before, copied(net)) == {"tail"}


def test_resume_within_a_stage_and_at_its_border_equals_the_unbroken_run() -> None:
    net, task, optimizer = built()
    states = {}
    for iteration in range(1, 7):
        step(task, optimizer, iteration)
        states[iteration] = copied(net)
    for stop in (1, 2, 4, 5):
        again, task, optimizer = built()
        again.load_state_dict(states[stop])
        for iteration in range(stop + 1, 7):
            step(task, optimizer, iteration)
        assert not moved(states[6], copied(again)), stop


def test_dropout_stays_and_what_was_in_evaluation_mode_is_left_there() -> None:
    net = Normed()
    kept = keepers(net, ("head",))
    assert all(module is not net.head.drop for module in kept)
    assert [type(m).__name__ for m in kept] == ["_SpectralNorm", "Conv2d", "BatchNorm2d"]
    hold(kept, ())
    assert net.head.drop.training and net.tail.bn.training and not net.head.bn.training
    hold((), kept)
    assert net.head.bn.training
