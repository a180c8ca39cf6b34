"""Balances as a task measures them: in float16, in stages, under schedules."""

import logging

import pytest
import torch

from tests.helpers.networks import Image
from tests.helpers.options import make_task

PIXEL = {"pixel_opt": {"type": "L1Loss"}}


def batch(count=2, size=8):
    torch.manual_seed(0)
    return {"lq": torch.rand(count, 3, size, size), "gt": torch.rand(count, 3, 2 * size, 2 * size)}


def make(term, student=None, teacher=None, **more):
    values = PIXEL | {"distill_opt": {"it": term}} | more
    return make_task(student or Image(4), teacher or Image(6), values, batch()).train()


class Loud(Image):
    """Features in the range of 8-bit values, as in BasicSR's EDSR and RCAN."""

    def forward(self, x):
        return super().forward(255 * x) / 255


@pytest.mark.parametrize("kind", ["SpatialAttentionLoss", "FitNetLoss"])  # 1e9 and 1e5 times the pixel loss's
def test_a_gradient_too_large_for_float16_is_measured(kind):
    """Against float32; taken 1024 times as large, as small ones are, it overflows."""
    weights = {}
    for amp in ("no", "fp16"):
        torch.manual_seed(1)
        task = make({"type": kind, "at": "f_lr", "loss_weight": {"balance": 0.1}}, Loud(8), Loud(16), amp=amp)
        weights[amp] = task(batch(), 1).weights["l_it"]
    assert 0 < weights["fp16"] == pytest.approx(weights["no"], rel=0.01)


def test_a_term_that_cannot_be_measured_is_named_once(caplog, monkeypatch):
    task = make({"type": "L1Loss", "loss_weight": {"balance": 0.1}})
    monkeypatch.setattr(task, "_norms", lambda *_: {"l_pix": 1.0, "l_it": float("inf")})
    with caplog.at_level(logging.WARNING):
        for iteration in (1, 2):
            task.measure(task(batch(), iteration), iteration)
    (said,) = caplog.messages
    assert "'it'" in said and "inf" in said and "balance" in said


def test_a_term_trains_its_own_parts_while_the_student_is_frozen():
    """There is nothing to balance with: the weight is what remains without the balance."""
    stages = [{"iters": 2, "terms": ["it"], "freeze": ["head", "up", "last", "idle"]}, {"iters": 2}]
    weight = {"balance": 0.5, "constant": 3.0, "schedule": [[0, 0], [2, 1]]}
    task = make({"type": "FitNetLoss", "at": "f_lr", "loss_weight": weight}, stages=stages)
    assert task.known_weights(1) is None  # nothing is frozen before the first step
    output = task(batch(), 1)
    assert output.weights["l_it"] == task.known_weights(1)["l_it"] == 1.5
    output.total.backward()
    (adapter,) = task.train_only_parameters()[:1]
    assert adapter.grad.abs().sum() > 0 and all(p.grad is None for p in task.student.parameters())
    output = task(batch(), 3)
    ratio = task.measure(output, 3)["it"]
    assert ratio == pytest.approx(0.5 * 3.0, rel=1e-5)


def test_a_balance_is_measured_when_its_schedule_begins():
    weight = {"balance": 0.1, "schedule": [[2, 0], [3, 1]]}
    task = make({"type": "FitNetLoss", "at": "f_lr", "loss_weight": weight})
    for iteration in (1, 2):
        output = task(batch(), iteration)
        assert set(output.losses) == {"l_pix"} and not task.measure(output, iteration)
    assert task.measure(task(batch(), 3), 3)["it"] == pytest.approx(0.1, rel=1e-5)
    assert len(task.terms["it"].weight.ratios) == 1  # one batch is one measurement
    with torch.no_grad():
        task.student.head.weight.mul_(3)
    task.measure(task(batch(), 4), 4)
    assert len(task.terms["it"].weight.ratios) == 2
