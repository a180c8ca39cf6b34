"""Learning rates against BasicSR's own loop, torch's schedulers and values computed by hand."""

from __future__ import annotations

import pytest
import torch

from kdsr_arch.optim.optimizers import scheduler_names
from kdsr_arch.optim.update import Schedule
from kdsr_arch.options.schema_train import SchedulerOptions
from tests.helpers.messages import refuses


def optimizer(lr: float = 0.1, kind: type = torch.optim.SGD) -> torch.optim.Optimizer:
    return kind([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def schedule_of(optim: torch.optim.Optimizer, opt: dict | None, warmup: int = -1) -> Schedule:
    return Schedule(optim, SchedulerOptions.model_validate(opt) if opt else None, warmup)


def rates(schedule: Schedule, count: int, start: int = 0) -> list[float]:
    lrs = []
    for iteration in range(start + 1, count + 1):
        schedule.optimizer.step()
        schedule.advance(iteration)
        lrs.append(schedule.optimizer.param_groups[0]["lr"])
    return lrs


def basicsr_rates(opt: dict, count: int, warmup: int = -1) -> list[float]:
    """What BasicSR's BaseModel does with the same options."""
    from basicsr.models.base_model import BaseModel

    model = BaseModel({"num_gpu": 0, "is_train": True, "train": {"scheduler": dict(opt)}})
    model.optimizers = [optimizer()]
    model.setup_schedulers()
    lrs = []
    for iteration in range(1, count + 1):
        model.optimizers[0].step()
        model.update_learning_rate(iteration, warmup)
        lrs.append(model.get_current_learning_rate()[0])
    return lrs


BASICSR = [
    {"type": "MultiStepLR", "milestones": [3, 5, 5], "gamma": 0.5},
    {"type": "MultiStepRestartLR", "milestones": [2, 6], "restarts": [0, 4], "restart_weights": [1, 0.7]},
    {"type": "CosineAnnealingRestartLR", "periods": [5, 7], "restart_weights": [1, 0.5], "eta_min": 1e-3},
]


@pytest.mark.parametrize("opt", BASICSR, ids=lambda o: o["type"])
def test_equals_basicsr(opt: dict) -> None:
    assert rates(schedule_of(optimizer(), opt), 12) == basicsr_rates(opt, 12)


@pytest.mark.parametrize("opt", BASICSR, ids=lambda o: o["type"])
def test_resumed_schedule_equals_the_unbroken_one(opt: dict) -> None:
    whole = rates(schedule_of(optimizer(), opt, warmup=4), 12)
    first = schedule_of(optimizer(), opt, warmup=4)
    head = rates(first, 6)
    second = schedule_of(optimizer(), opt, warmup=4)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert head + rates(second, 12, start=6) == whole


def test_warm_up_is_basicsrs_and_leaves_no_trace() -> None:
    opt = {"type": "MultiStepLR", "milestones": [8], "gamma": 0.5}
    lrs = rates(schedule_of(optimizer(), opt, warmup=4), 10)
    assert lrs[:3] == basicsr_rates(opt, 3, warmup=4) == [0.1 / 4 * i for i in (1, 2, 3)]
    assert lrs[3:] == [0.1] * 5 + [0.05] * 2


def test_constant_without_a_schedule() -> None:
    assert rates(schedule_of(optimizer(), None), 3) == [0.1] * 3


def test_torchs_scheduler_by_name() -> None:
    other = optimizer()
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(other, T_max=10)
    expected = []
    for iteration in range(1, 8):
        other.step()
        if iteration > 1:
            reference.step()
        expected.append(other.param_groups[0]["lr"])
    assert rates(schedule_of(optimizer(), {"type": "CosineAnnealingLR", "T_max": 10}), 7) == expected


def test_one_cycle_resumes() -> None:
    opt = {"type": "OneCycleLR", "max_lr": 0.2, "total_steps": 12}
    whole = rates(schedule_of(optimizer(kind=torch.optim.AdamW), opt), 12)
    first = schedule_of(optimizer(kind=torch.optim.AdamW), opt)
    head = rates(first, 5)
    second = schedule_of(optimizer(kind=torch.optim.AdamW), opt)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert head + rates(second, 12, start=5) == whole


def test_linear_decay_by_hand() -> None:
    lrs = rates(schedule_of(optimizer(), {"type": "LinearLR", "total_iter": 4}), 5)
    assert lrs == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0])


def test_linear_lr_without_total_iter_is_torchs() -> None:
    lrs = rates(schedule_of(optimizer(), {"type": "LinearLR", "start_factor": 0.5, "total_iters": 2}), 3)
    assert lrs == pytest.approx([0.05, 0.075, 0.1])


@pytest.mark.parametrize(
    ("opt", "names"),
    [
        ({"type": "MultiStepsLR"}, ["train.scheduler.type", "'MultiStepsLR'", "'MultiStepLR'"]),
        ({"type": "MultiStepLR", "milestone": [3]}, ["train.scheduler.milestone", "MultiStepLR", "'milestones'"]),
        (
            {"type": "CosineAnnealingRestartLR", "periods": [15], "restart_weights": [1, 2]},
            ["train.scheduler", "CosineAnnealingRestartLR", "restart_weights"],
        ),
        ({"type": "LambdaLR"}, ["train.scheduler.type", "'LambdaLR'"]),
    ],
)
def test_faults_are_told(opt: dict, names: list[object]) -> None:
    with refuses(*names):
        schedule_of(optimizer(), opt)


@pytest.mark.parametrize(
    ("opt", "total", "place"),
    [
        ({"type": "OneCycleLR", "max_lr": 0.1, "total_steps": 4}, 5, "after 4 steps"),
        ({"type": "OneCycleLR", "max_lr": 0.1, "total_steps": 10**5}, 10**6, "100,000"),
        ({"type": "CosineAnnealingRestartLR", "periods": [5000], "eta_min": 0}, 6000, "iteration 6,000"),
        ({"type": "StepLR", "step_size": 0}, 8, "iteration 2"),
        ({"type": "CosineAnnealingLR", "T_max": 0}, 8, "iteration 2"),
        ({"type": "ExponentialLR", "gamma": 1e300}, 8, "iteration 2"),
    ],
)
def test_a_schedule_that_would_end_the_training_is_told_before_it(opt: dict, total: int, place: str) -> None:
    with refuses("train.scheduler", opt["type"], place):
        schedule_of(optimizer(), opt).try_out(total)


@pytest.mark.parametrize("opt", [*BASICSR, {"type": "OneCycleLR", "max_lr": 0.2, "total_steps": 12}, None])
def test_trying_a_schedule_leaves_no_trace(opt: dict | None) -> None:
    tried = schedule_of(optimizer(), opt, warmup=4)
    tried.try_out(12)
    assert rates(tried, 12) == rates(schedule_of(optimizer(), opt, warmup=4), 12)


def test_names_hold_both_families() -> None:
    assert {"MultiStepRestartLR", "CosineAnnealingRestartLR", "OneCycleLR"} <= set(scheduler_names())
