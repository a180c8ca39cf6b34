"""NaN and infinity: named with term and iteration, before any weight is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdsr_arch.registry import register_all
from kdsr_arch.train import steps
from kdsr_arch.train.bridge import BridgedTrainer
from kdsr_arch.train.meter import NonFiniteError
from kdsr_arch.train.trainer import Trainer
from tests.helpers.messages import refuses
from tests.helpers.networks import make_network
from tests.helpers.trainers import make_trainer, train

register_all()
SMALL = {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2}
WIDE = {**SMALL, "num_feat": 12}
TERMS = {
    "fit": {"type": "FitNetLoss", "at": "body.0", "loss_weight": 0.1},
    "out": {"type": "L1Loss", "loss_weight": {"balance": 0.5, "measurements": 2}},
}
NAN, INF = float("nan"), float("inf")


def options(train: dict[str, Any], **changes: Any) -> dict[str, Any]:
    base = {"total_iter": 10, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}, "ratio_freq": 1,
            "ema_decay": 0.9, "scheduler": {"type": "MultiStepLR", "milestones": [6], "gamma": 0.5}}  # fmt: skip
    return {"scale": 2, "network_g": SMALL, "train": {**base, **train}, **changes}


def images(count: int) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(5)
    return [{"lq": torch.rand(4, 3, 8, 8, generator=draw), "gt": torch.rand(4, 3, 16, 16, generator=draw)}
            for _ in range(count)]  # fmt: skip


@pytest.fixture
def taught(tmp_path: Path) -> dict[str, Any]:
    torch.manual_seed(2)
    torch.save({"params": make_network(WIDE).state_dict()}, tmp_path / "t.pth")
    return {"network_t": WIDE, "path": {"pretrain_network_t": str(tmp_path / "t.pth")}}


def prepared(opt: dict[str, Any], kind: type = Trainer) -> Any:
    torch.manual_seed(0)
    return make_trainer(opt, images(1)[0], kind)


def same(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for index, value in enumerate(one):
            same(value, other[index], f"{where}[{index}]")
    else:
        assert one == other, where


def poison(module: nn.Module, value: float) -> None:
    module.register_forward_hook(lambda m, i, out: out * value)


CASES = {
    "input": (lambda m, b: b["lq"][1, 0, 0].fill_(NAN), ["l_fit", "l_out", "l_pix", "batch", "lq"]),
    "ground truth": (lambda m, b: b["gt"][1, 0, 0].fill_(INF), ["l_pix", "batch", "gt"]),
    "student": (lambda m, b: poison(m.student.conv_last, INF), ["l_out", "l_pix"]),
    "teacher": (lambda m, b: poison(m.task._teacher.net.conv_last, NAN), ["l_out"]),
    "term": (lambda m, b: poison(m.task.terms["fit"], INF), ["l_fit"]),
    "gradient": (
        lambda m, b: m.student.conv_hr.register_forward_hook(lambda n, i, out: Exploding.apply(out)),
        ["grad_norm"],
    ),
}


class Exploding(torch.autograd.Function):
    """The identity, whose gradient is infinite."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient * INF


@pytest.mark.parametrize("case", CASES)
def test_the_culprit_is_named_and_nothing_was_touched(case, taught) -> None:
    harm, names = CASES[case]
    others = [name for name in ("l_fit", "l_out", "l_pix", "grad_norm", "batch", "lq", "gt") if name not in names]
    trainer = prepared(options({"distill_opt": TERMS}, **taught))
    data = images(3)
    train(trainer, data[:2])
    harm(trainer.model, data[2])
    before = trainer.model.state()
    with refuses("iteration 3", *names, without=others, kind=NonFiniteError):
        train(trainer, data[2:], 2)
    after = trainer.model.state()
    for part in ("net_g", "net_g_ema", "optimizer"):
        same(before[part], after[part], part)


def test_a_later_part_of_an_accumulated_batch_is_looked_at() -> None:
    trainer = prepared(options({"accumulation": 2}))
    data = images(2)
    data[1]["gt"][3] = INF
    with refuses("iteration 1", "l_pix", kind=NonFiniteError):
        train(trainer, data)


@pytest.mark.parametrize("asked", ["by the step", "by the loop"])
def test_a_gpu_is_asked_seldom_and_the_first_iteration_is_named(asked) -> None:
    trainer = prepared(options({"total_iter": 32}))
    trainer.device = torch.device("cuda")  # all else stays on the CPU
    data = images(32)
    data[4]["lq"].fill_(NAN)
    train(trainer, data[:31])
    with refuses("iteration 5", "l_pix", "learning rate", without=["batch"], kind=NonFiniteError):
        trainer.check_finite(31) if asked == "by the loop" else train(trainer, data[31:], 31)


# ------------------------------------------------------------------------------------------------ gradient scaler


def test_the_scaler_s_skips_are_counted_and_leave_the_average_alone(num_gpu) -> None:
    trainer = prepared(options({"amp": "fp16"}, num_gpu=num_gpu))
    model = trainer.model
    data = images(4)
    train(trainer, data[:2])
    before = model.state()
    handle = model.student.conv_hr.register_forward_hook(lambda n, i, out: Exploding.apply(out))
    train(trainer, data[2:3], 2)
    handle.remove()
    after = model.state()
    for part in ("net_g", "net_g_ema", "optimizer"):
        same(before[part], after[part], part)
    assert after["scaler"]["scale"] == before["scaler"]["scale"] / 2
    assert trainer.figures()["skipped_steps"] == 1
    train(trainer, data[3:], 3)
    assert trainer.training_state([])["skipped"] == [1, 0]


def test_a_scaler_that_never_finds_a_scale_stops_the_training(monkeypatch, num_gpu) -> None:
    monkeypatch.setattr(steps, "SCALER_PATIENCE", 3)
    trainer = prepared(options({"amp": "fp16"}, num_gpu=num_gpu))
    trainer.model.student.conv_hr.register_forward_hook(lambda n, i, out: Exploding.apply(out))
    with refuses("3 steps", "train.amp", "bf16", kind=NonFiniteError):
        train(trainer, images(4))


def test_with_a_scaler_a_bad_loss_stops_the_training() -> None:
    trainer = prepared(options({"amp": "fp16"}))
    (bad,) = images(1)
    bad["lq"].fill_(NAN)
    with refuses("iteration 1", "l_pix", "batch", "lq", without=["gt", "learning rate"], kind=NonFiniteError):
        train(trainer, [bad])


# ------------------------------------------------------------------------------------------------ BasicSR's models


def test_a_bad_batch_of_basicsr_s_model_is_named_before_the_weights_are_touched() -> None:
    trainer = prepared(options({}, model_type="SRModel"), BridgedTrainer)
    data = images(3)
    train(trainer, data[:2])
    before = trainer.model.state()
    data[2]["lq"].fill_(NAN)
    with refuses("iteration 3", "l_pix", "batch", "lq", without=["gt"], kind=NonFiniteError):
        train(trainer, data[2:], 2)
    after = trainer.model.state()
    same(before["networks"]["net_g"], after["networks"]["net_g"])
    same(before["optimizers"], after["optimizers"])


def test_a_gradient_of_basicsr_s_model_stops_before_the_weights() -> None:
    trainer = prepared(options({}, model_type="SRModel"), BridgedTrainer)
    data = images(2)
    train(trainer, data[:1])
    before = trainer.model.state()
    trainer.model.model.net_g.conv_hr.register_forward_hook(lambda n, i, out: Exploding.apply(out))
    with refuses("iteration 2", "grad_norm", without=["batch"], kind=NonFiniteError):
        train(trainer, data[1:], 1)
    same(before["networks"]["net_g"], trainer.model.state()["networks"]["net_g"])
