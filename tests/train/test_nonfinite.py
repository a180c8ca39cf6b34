"""NaN and infinity: found in the step they appear in, named, and skipped without a trace where that is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdsr_arch.infer.networks import build_network
from kdsr_arch.registry import register_all
from kdsr_arch.train import nonfinite
from kdsr_arch.train.bridge import BridgedModel
from kdsr_arch.train.distill_model import ImageDistillModel
from kdsr_arch.train.meter import NonFiniteError, Tally
from kdsr_arch.train.nonfinite import Guard

register_all()
SMALL = {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2}
WIDE = {**SMALL, "num_feat": 12}
TERMS = {
    "fit": {"type": "FitNetLoss", "at": "body.0", "loss_weight": 0.1},
    "out": {"type": "L1Loss", "loss_weight": {"balance": 0.5, "window": 2}},
}
NAN, INF = float("nan"), float("inf")


def options(train: dict[str, Any], **changes: Any) -> dict[str, Any]:
    base = {"total_iter": 10, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}, "ratio_freq": 1,
            "ema_decay": 0.9, "scheduler": {"type": "MultiStepLR", "milestones": [6], "gamma": 0.5}}  # fmt: skip
    return {"scale": 2, "num_gpu": 0, "network_g": SMALL, "path": {}, "model_type": "SRModel",
            "train": {**base, **train}, **changes}  # fmt: skip


def images(count: int) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(5)
    return [{"lq": torch.rand(4, 3, 8, 8, generator=draw), "gt": torch.rand(4, 3, 16, 16, generator=draw)}
            for _ in range(count)]  # fmt: skip


@pytest.fixture
def taught(tmp_path: Path) -> dict[str, Any]:
    torch.manual_seed(2)
    torch.save({"params": build_network(WIDE).state_dict()}, tmp_path / "t.pth")
    return {"network_t": WIDE, "path": {"pretrain_network_t": str(tmp_path / "t.pth")}}


def prepared(opt: dict[str, Any], cls: type = ImageDistillModel) -> Any:
    torch.manual_seed(0)
    model = cls(opt)
    model.prepare(images(1)[0])
    return model


def train(model: Any, data: list[dict[str, torch.Tensor]], start: int = 0) -> None:
    for iteration, batch in enumerate(data, start=start + 1):
        model.update_learning_rate(iteration)
        model.feed_data(batch)
        model.optimize_parameters(iteration)


def with_norm(model: Any) -> None:
    """Give the student of a prepared model a batch normalisation whose statistics a bad batch would spoil."""
    norm = nn.BatchNorm2d(8)
    model.student.conv_first = nn.Sequential(model.student.conv_first, norm)
    model.ema = type(model.ema)(model.student, 0.9)


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


# ------------------------------------------------------------------------------------------------ what is named


def poison(module: nn.Module, value: float) -> None:
    module.register_forward_hook(lambda m, i, out: out * value)


CASES = {
    "input": (lambda m, b: b["lq"][1, 0, 0].fill_(NAN), "it is in the batch already: lq"),
    "ground truth": (lambda m, b: b["gt"][1, 0, 0].fill_(INF), "it is in the batch already: gt"),
    "student": (lambda m, b: poison(m.student.body[0].conv1, INF), r"in the student, at the output of body.0.conv1 \("),
    "teacher": (lambda m, b: poison(m.task.teacher_network().upconv1, NAN), r"teacher, at the output of upconv1 \("),
    "student's weights": (
        lambda m, b: m.student.conv_last.bias.data.fill_(NAN),
        "parameters of the student are broken already: conv_last.bias",
    ),
    "teacher's weights": (
        lambda m, b: m.task.teacher_network().conv_hr.weight.data.fill_(NAN),
        "parameters of the teacher are broken already: conv_hr.weight",
    ),
    "term": (lambda m, b: poison(m.task.terms["fit"], INF), "both networks' outputs are finite, l_fit of them is not"),
    "gradient": (
        lambda m, b: m.student.conv_hr.register_forward_hook(lambda n, i, out: Exploding.apply(out)),
        r"grad_norm became.*the gradient of l_pix is not, from the output of lrelu \(LeakyReLU\) on",
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
    harm, said = CASES[case]
    model = prepared(options({"distill_opt": TERMS}, **taught))
    data = images(3)
    train(model, data[:2])
    harm(model, data[2])
    before = model.training_state()
    with pytest.raises(NonFiniteError, match="iteration 3: .*" + said):
        train(model, data[2:], 2)
    after = model.training_state()
    for part in ("net_g", "net_g_ema", "optimizer"):
        if "weights" not in case:
            same(before[part], after[part], part)


def test_accumulated_parts_are_searched_for_the_culprit(taught) -> None:
    model = prepared(options({"distill_opt": TERMS, "accumulation": 2}, **taught))
    original = model.student.conv_first.forward
    model.student.conv_first.forward = lambda x: original(x) * torch.where(x.mean() > 0.6, INF, 1.0)
    (batch,) = images(1)
    batch["lq"][2:] = 0.9  # the second half
    with pytest.raises(NonFiniteError, match=r"at the output of conv_first \(Conv2d\)"):
        train(model, [batch])


# ------------------------------------------------------------------------------------------------ skipping


@pytest.mark.parametrize("bad", ["input", "infinite ground truth"])
def test_a_skipped_step_leaves_no_trace(bad, taught) -> None:
    """Weights, optimizer, average, normalisation's statistics, balances: those of a run without that step."""
    opt = options({"distill_opt": TERMS, "nonfinite": {"skip": 3, "in_a_row": 1}}, **taught)
    data = images(4)
    spoilt = [dict(batch) for batch in data]
    key = "lq" if bad == "input" else "gt"
    spoilt[2][key] = torch.full_like(data[2][key], NAN if bad == "input" else INF)
    skipping, plain = prepared(opt), prepared(opt)
    for model in (skipping, plain):
        with_norm(model)
        train(model, data[:2])
        model.guard.load_state(dict.fromkeys(model.guard.state(), 0))
    train(skipping, spoilt[2:3], 2)
    plain.update_learning_rate(3)
    mine, theirs = skipping.training_state(), plain.training_state()
    assert mine.pop("guard")["total"] == 1
    theirs.pop("guard")
    same(mine, theirs)
    train(skipping, data[3:], 3)
    train(plain, data[3:], 3)
    same(skipping.training_state()["net_g_ema"], plain.training_state()["net_g_ema"])
    log = skipping.get_current_log()
    assert log.pop("nonfinite_steps") == 1 and all(abs(v) < INF for v in log.values())


def test_skipping_changes_nothing_in_sound_steps(taught) -> None:
    states = []
    for policy in ("stop", {"skip": 5}):
        model = prepared(options({"distill_opt": TERMS, "nonfinite": policy}, **taught))
        train(model, images(4))
        states.append(model.training_state())
    same(*states)


@pytest.mark.parametrize(("policy", "allowed"), [({"skip": 2}, 2), ({"skip": 9, "in_a_row": 3}, 3), ({"skip": 0}, 0)])
def test_limits_in_all_and_in_a_row(policy, allowed, taught) -> None:
    model = prepared(options({"nonfinite": policy}))
    (bad,) = images(1)
    bad["lq"].fill_(NAN)
    train(model, [bad] * allowed)
    said = f"let {allowed} such steps pass" if allowed else "became NaN"
    with pytest.raises(NonFiniteError, match=said):
        train(model, [bad], allowed)


def test_counts_go_on_after_a_resume(taught) -> None:
    (bad,), opt = images(1), options({"nonfinite": {"skip": 2, "in_a_row": 2}})
    bad["lq"].fill_(NAN)
    first, second = prepared(opt), prepared(opt)
    train(first, [bad] * 2)
    second.load_training_state(first.training_state())
    with pytest.raises(NonFiniteError):
        train(second, [bad], 2)


def test_a_sound_step_ends_the_row() -> None:
    model = prepared(options({"nonfinite": {"skip": 4, "in_a_row": 1}}))
    good, bad = images(2)
    bad["lq"].fill_(NAN)
    train(model, [bad, good, bad, good, bad])
    assert model.guard.total == 3


# ------------------------------------------------------------------------------------- without waiting for the device


def test_a_gpu_is_asked_seldom_and_the_first_culprit_is_named_late(monkeypatch) -> None:
    guard = Guard("stop", torch.device("cpu"), Tally(torch.device("cpu")))
    guard.each_step = False  # as on a GPU

    def step(iteration: int, loss: float) -> None:
        guard.add({"l_pix": torch.tensor(loss), "l_fit": torch.tensor(1.0)})
        guard.seal()
        guard.sound(torch.tensor(1.0), iteration, lambda: pytest.fail("the step is gone"))

    for iteration in range(1, nonfinite.PERIOD_CUDA):
        step(iteration, NAN if iteration == 5 else 1.0)
    with pytest.raises(NonFiniteError, match=r"iteration 5: l_pix became.*resume with train.nonfinite: \{skip: 0\}"):
        step(nonfinite.PERIOD_CUDA, 1.0)


def test_a_loss_of_another_process_reaches_this_one_through_the_flag() -> None:
    """Averaging makes the flag NaN everywhere, so that all processes decide alike, whatever their own losses."""
    guard = Guard({"skip": 1}, torch.device("cpu"), Tally(torch.device("cpu")))
    guard.add({"l_pix": torch.tensor(1.0)})
    flag = guard.seal()
    assert torch.equal(flag.grad, torch.zeros(1))
    flag.grad.fill_(NAN)  # what average_gradients leaves
    assert not guard.sound(torch.tensor(1.0), 1, lambda: "") and guard.total == 1


# ------------------------------------------------------------------------------------------------ gradient scaler


def test_the_scaler_s_skips_are_counted_and_leave_the_average_alone() -> None:
    model = prepared(options({"amp": "fp16"}))
    data = images(4)
    train(model, data[:2])
    before = model.training_state()
    handle = model.student.conv_hr.register_forward_hook(lambda n, i, out: Exploding.apply(out))
    train(model, data[2:3], 2)
    handle.remove()
    after = model.training_state()
    for part in ("net_g", "net_g_ema", "optimizer"):
        same(before[part], after[part], part)
    assert after["scaler"]["scale"] == before["scaler"]["scale"] / 2
    assert model.get_current_log()["skipped_steps"] == 1
    train(model, data[3:], 3)
    assert model.guard.scaler_row == 0 and model.guard.scaler_total == 1


def test_a_scaler_that_never_finds_a_scale_stops_the_training(monkeypatch) -> None:
    monkeypatch.setattr(nonfinite, "SCALER_PATIENCE", 3)
    model = prepared(options({"amp": "fp16"}))
    model.student.conv_hr.register_forward_hook(lambda n, i, out: Exploding.apply(out))
    with pytest.raises(NonFiniteError, match="left out 3 steps in a row.*bf16"):
        train(model, images(4))


def test_with_a_scaler_a_bad_batch_is_skipped_without_touching_the_scale() -> None:
    model = prepared(options({"amp": "fp16", "nonfinite": {"skip": 1}}))
    (bad,) = images(1)
    bad["lq"].fill_(NAN)
    train(model, [bad])
    assert model.scaler.get_scale() == 65536 and model.guard.total == 1 and model.guard.scaler_total == 0
    train(model, images(1), 1)


# ------------------------------------------------------------------------------------------------ BasicSR's models


def test_a_model_of_basicsr_skips_as_well() -> None:
    model = prepared(options({"nonfinite": {"skip": 1}}), BridgedModel)
    data = images(3)
    train(model, data[:2])
    before = model.training_state()
    bad = {**data[2], "lq": torch.full_like(data[2]["lq"], NAN)}
    train(model, [bad], 2)
    after = model.training_state()
    for part in ("networks", "optimizers"):
        same(before[part], after[part], part)
    assert after["guard"]["total"] == 1
    with pytest.raises(NonFiniteError, match="iteration 4: l_pix became NaN.*; it is in the batch already: lq"):
        train(model, [bad], 3)


def test_a_gradient_of_basicsr_s_model_stops_before_the_weights() -> None:
    model = prepared(options({}), BridgedModel)
    data = images(2)
    train(model, data[:1])
    before = model.training_state()
    model.model.net_g.conv_hr.register_forward_hook(lambda n, i, out: Exploding.apply(out))
    with pytest.raises(NonFiniteError, match="grad_norm became NaN.*gradient of conv_first.weight"):
        train(model, data[1:], 1)
    same(before["networks"], model.training_state()["networks"])
