"""The training step around a task: video with space-time distillation, stages, precision, and an exact state."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdsr_arch.data.loader import to_device
from kdsr_arch.registry import ARCH_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY, register_all
from kdsr_arch.train.checkpoint import random_states
from kdsr_arch.train.distill_model import ImageDistillModel
from kdsr_arch.train.entry import trainer_class
from kdsr_arch.train.trainer import Trainer
from tests.helpers.messages import refuses
from tests.helpers.networks import EDVR, SMALL, VESPCN, make_network
from tests.helpers.options import make_options
from tests.helpers.trainers import make_trainer, train

register_all()
STD = {
    "motion": {"type": "MotionCompensationLoss", "student": "motion", "loss_weight": 0.01},
    "spatial": {"type": "SpatialAttentionLoss", "at": "f_sr", "loss_weight": {"balance": 0.1, "measurements": 2}},
    "temporal": {"type": "TemporalMemoryLoss", "at": "f_sr", "loss_weight": 0.1},
}


def options(train: dict[str, Any], **changes: Any) -> dict[str, Any]:
    base = {"total_iter": 10, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}, "ratio_freq": 2}
    return {"scale": 2, "network_g": SMALL, "train": {**base, **train}, **changes}


def teacher_file(folder: Path, network: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(2)
    torch.save({"params": make_network(network).state_dict()}, folder / "t.pth")
    return {"network_t": network, "path": {"pretrain_network_t": str(folder / "t.pth")}}


def images(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        {"lq": torch.rand(4, 3, 8, 8, generator=generator), "gt": torch.rand(4, 3, 16, 16, generator=generator)}
        for _ in range(count)
    ]


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters])


def assert_resumes_exactly(opt: dict[str, Any], data: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Train in one go, and stopped after two iterations and resumed; return the figures, which are the same."""
    torch.manual_seed(0)
    whole = make_trainer(opt, data[0])
    initial = deepcopy(whole.training_state([random_states()]))
    train(whole, data)
    first, second = (make_trainer(opt, data[0]) for _ in range(2))
    first.resume(initial)
    train(first, data[:2])
    second.resume(first.training_state([random_states()]))
    train(second, data[2:], 2)
    log = whole.figures()
    assert torch.equal(weights(second), weights(whole)) and second.figures() == log
    return log


def test_space_time_distillation_resumes_exactly(tmp_path: Path, placed: dict[str, Any]) -> None:
    motion = not placed["num_gpu"]  # torch's backward pass of warping is not deterministic on a GPU
    terms = {name: term for name, term in STD.items() if motion or name != "motion"}
    networks = {"network_g": {**VESPCN, "motion": motion}, **teacher_file(tmp_path, EDVR)}
    opt = options({"distill_opt": terms, "ema_decay": 0.9}, scale=4, **networks, **placed)
    generator = torch.Generator().manual_seed(5)
    data = [
        {"lq": torch.rand(1, 4, 3, 12, 12, generator=generator), "gt": torch.rand(1, 2, 3, 48, 48, generator=generator)}
        for _ in range(4)
    ]
    log = assert_resumes_exactly(opt, data)
    assert {"l_pix", *(f"l_{name}" for name in terms), "ratio/temporal", "grad_norm"} <= set(log)


UPCYCLED = {
    "DUKD": {"type": "DUKDLoss", "zoom_in": 2},
    "ECO": {"type": "ECOLoss", "iters": 3},
    "DCKD": {"type": "HistoryContrastLoss", "negatives": 2, "every": 1},
    "MTKD": {"type": "MTKDLoss", "student": "output", "teacher": ["t", "t2"], "levels": 2, "num_feat": 4, "depths": [2],
             "num_heads": 2, "window_size": 4},
    "CSD": {"type": "CSDLoss", "negatives": 2, "contrast": 0.5},
    "MiPKD": {"type": "MiPKDLoss", "at": ["conv_first", "body"]},
}  # fmt: skip


@pytest.mark.parametrize("name", UPCYCLED)
def test_what_draws_follows_the_iteration_or_has_parts_of_its_own_resumes_exactly(
    name: str, tmp_path: Path, placed: dict[str, Any]
) -> None:
    taught = teacher_file(tmp_path, SMALL)
    if name == "MTKD":
        taught["network_t2"] = SMALL
        taught["path"]["pretrain_network_t2"] = taught["path"]["pretrain_network_t"]
    if name == "CSD":
        taught["network_g"] = {"type": "ChannelSplit", "scale": 2, "network": SMALL, "narrow": {"num_feat": 4}}
    opt = options({"distill_opt": {"term": UPCYCLED[name]}, "ema_decay": 0.9}, **taught, **placed)
    data = images(4)
    assert_resumes_exactly(opt, data)


class Counting(nn.Module):
    """Weighs what it is given by how often it has been called, which a buffer counts; one comes into being late."""

    def __init__(self, persistent: bool = False) -> None:
        super().__init__()
        self.register_buffer("calls", torch.tensor(1.0), persistent=persistent)
        self.register_buffer("late", None, persistent=persistent)
        self.register_buffer("constant", torch.tensor(1.0), persistent=persistent)

    def count(self) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.calls += 0.5
            self.late = self.calls * 2
        return self.calls * self.constant if self.late is None else self.late


class CountingLoss(Counting):
    def forward(self, sr: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
        return (sr - gt).pow(2).mean() * self.count()


class CountingNet(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.upscale, self.body = 2, make_network(SMALL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) * self.count()


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSS_REGISTRY._obj_map, "CountingLoss", CountingLoss)
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, "CountingNet", CountingNet)


@pytest.mark.parametrize("changes", [
    {"network_g": {"type": "CountingNet"}},
    {"train": {"pixel_opt": {"type": "CountingLoss", "persistent": True}}},
    {"train": {"distill_opt": {"term": {"type": "CountingLoss", "student": "output", "teacher": "gt"}}}},
])  # fmt: skip
def test_what_is_counted_outside_of_state_dicts_resumes_exactly(counting: None, changes: dict[str, Any]) -> None:
    opt = options({"ema_decay": 0.9, "grad_clip": 1.0, **changes.pop("train", {})}, **changes)
    data = images(4)
    assert_resumes_exactly(opt, data)
    trainer = make_trainer(opt, data[0])
    assert not trainer.model.state()["buffers"]
    train(trainer, data)
    assert {key.rpartition(".")[2] for key in trainer.model.state()["buffers"]} == {"calls", "late"}


def test_a_pixel_loss_with_parameters_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(CountingLoss):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

    monkeypatch.setitem(LOSS_REGISTRY._obj_map, "Scaled", Scaled)
    with refuses("train.pixel_opt", "Scaled", "train.distill_opt"):
        make_trainer(options({"pixel_opt": {"type": "Scaled"}}), images(1)[0])


FITS = {
    "one": {"type": "FitNetLoss", "at": "conv_first"},
    "two": {"type": "FitNetLoss", "at": "body.0", "loss_weight": 0.3},
}


def resumed_otherwise(before: dict[str, Any], now: dict[str, Any], strip: bool = False) -> tuple[Trainer, Trainer]:
    """Trains four steps: in one go by the options `before`, and after two of them resumed by the options `now`."""
    data = images(4)
    torch.manual_seed(0)
    whole, resumed = make_trainer(before, data[0]), make_trainer(now, data[0])
    train(whole, data[:2])
    state = deepcopy(whole.training_state([random_states()]))
    if strip:  # as of an earlier version
        del state["model"]["optimizer"]["names"]
    resumed.resume(state)
    train(whole, data[2:], 2)
    train(resumed, data[2:], 2)
    return whole, resumed


@pytest.mark.parametrize("widths", [(12, "body.0"), (12, "conv_last")], ids=["same shapes", "other shapes"])
def test_terms_in_another_order_keep_what_the_optimizer_remembers(tmp_path: Path, widths: tuple[int, str]) -> None:
    wide = teacher_file(tmp_path, {**SMALL, "num_feat": widths[0]})
    terms = {**FITS, "two": {**FITS["two"], "at": widths[1], "adapter": {"type": "conv1x1"}}}
    turned = {name: terms[name] for name in reversed(terms)}
    whole, resumed = resumed_otherwise(*(options({"distill_opt": order}, **wide) for order in (terms, turned)))
    theirs = whole.model.task.state_dict()
    for name, value in resumed.model.task.state_dict().items():
        # the losses are summed in another order, which rounds otherwise
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_state_without_names_of_parameters_is_resumed_by_position(tmp_path: Path) -> None:
    taught = options({"distill_opt": FITS}, **teacher_file(tmp_path, {**SMALL, "num_feat": 12}))
    whole, resumed = resumed_otherwise(taught, taught, strip=True)
    assert torch.equal(weights(whole), weights(resumed))


def test_momentum_may_begin_at_a_resume() -> None:
    rms = {"type": "RMSprop", "lr": 1e-3}
    whole, resumed = resumed_otherwise(options({"optim_g": rms}), options({"optim_g": {**rms, "momentum": 0.9}}))
    assert not torch.equal(weights(whole), weights(resumed)) and weights(resumed).isfinite().all()


def test_a_model_derived_from_ours_is_the_one_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(ImageDistillModel):
        def rates(self) -> list[float]:
            return [2 * rate for rate in super().rates()]

    monkeypatch.setitem(MODEL_REGISTRY._obj_map, "Twice", Twice)
    opt, data = options({}, model_type="Twice"), images(1)
    trainer = make_trainer(opt, data[0], trainer_class(make_options(opt)))
    train(trainer, data)
    assert type(trainer.model) is Twice and trainer.model.rates() == [2e-3]


@pytest.mark.parametrize(("steps", "is_warned"), [(9, False), (10, True)])
def test_a_term_that_trains_its_own_parts_to_the_end_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, steps: int, is_warned: bool
) -> None:
    pretrained = {**STD["temporal"], "lstm": "pretrained", "pretrain_iters": steps}
    opt = options({"distill_opt": {"temporal": pretrained}}, network_g=VESPCN, scale=4, **teacher_file(tmp_path, EDVR))
    with caplog.at_level("WARNING", "kdsr"):
        make_trainer(opt, {"lq": torch.rand(1, 4, 3, 12, 12), "gt": torch.rand(1, 2, 3, 48, 48)})
    assert any("temporal: its pretrain_iters" in r.message for r in caplog.records) == is_warned


def test_train_only_parts_train_but_are_in_no_student_file(tmp_path: Path) -> None:
    wide = {**SMALL, "num_feat": 12}
    terms = {"fit": {"type": "FitNetLoss", "at": "body.0", "loss_weight": 1.0}}
    data = images(2)
    trainer = make_trainer(options({"distill_opt": terms}, **teacher_file(tmp_path, wide)), data[0])
    model = trainer.model
    before = [p.detach().clone() for p in model.task.train_only_parameters()]
    train(trainer, data)
    after = model.task.train_only_parameters()
    assert before and any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert list(model.network_files()["net_g"]["params"]) == list(model.student.state_dict())
    assert "108" in model.describe()  # 8 x 12 weights and 12 biases of the adapter


def test_a_schedule_that_ends_before_the_training_is_told_at_its_start() -> None:
    short = {"type": "OneCycleLR", "max_lr": 1e-3, "total_steps": 4}
    with refuses("train.scheduler", "4 steps", "train.total_iter 10"):
        make_trainer(options({"scheduler": short}), images(1)[0])


def test_gradient_is_that_of_a_plain_loop(placed: dict[str, Any]) -> None:
    data = images(3)
    trainer = make_trainer(options({}, **placed), data[0])
    model, net = trainer.model, deepcopy(trainer.model.student)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for batch in (to_device(batch, trainer.device) for batch in data):
        optimizer.zero_grad()
        (net(batch["lq"]) - batch["gt"]).abs().mean().backward()
        optimizer.step()
    train(trainer, data)
    for mine, theirs in zip(model.student.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"amp": "bf16"},
        {"amp": "fp16"},
        {"channels_last": True},
        pytest.param({"amp": "bf16", "channels_last": True, "compile": True}, marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_options_of_speed_keep_the_direction(changes: dict[str, Any], num_gpu: int) -> None:
    data, steps = images(1), []
    for train_opt in ({"optim_g": {"type": "SGD", "lr": 1.0}}, {"optim_g": {"type": "SGD", "lr": 1.0}, **changes}):
        torch.manual_seed(0)
        trainer = make_trainer(options(train_opt, num_gpu=num_gpu), data[0])
        before = weights(trainer)
        train(trainer, data)
        steps.append(weights(trainer) - before)
    cosine = torch.nn.functional.cosine_similarity(*steps, dim=0)
    assert cosine > (0.98 if "amp" in changes else 0.9999)


def test_stage_freezes_and_thaws() -> None:
    stages = [{"iters": 1, "freeze": ["conv_last"]}, {"iters": 9}]
    data = images(2)
    trainer = make_trainer(options({"stages": stages}), data[0])
    model = trainer.model
    start = model.student.conv_last.weight.detach().clone()
    train(trainer, data[:1])
    assert torch.equal(model.student.conv_last.weight, start)
    train(trainer, data[1:], 1)
    assert not torch.equal(model.student.conv_last.weight, start)


def test_clipped_step_has_the_wanted_length(num_gpu: int) -> None:
    data, sgd = images(1), {"type": "SGD", "lr": 1.0}
    trainer = make_trainer(options({"optim_g": sgd, "grad_clip": 1e-3}, num_gpu=num_gpu), data[0])
    before = weights(trainer)
    train(trainer, data)
    assert float((weights(trainer) - before).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_state_is_a_copy() -> None:
    data = images(2)
    trainer = make_trainer(options({"ema_decay": 0.5}), data[0])
    train(trainer, data[:1])
    state = trainer.model.state()
    copy_of_state = deepcopy(state)
    train(trainer, data[1:], 1)
    for part in ("net_g", "net_g_ema"):
        assert all(torch.equal(v, copy_of_state[part][k]) for k, v in state[part].items())
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], copy_of_state["optimizer"]["state"][0]["exp_avg"])


def test_state_of_other_terms_is_refused(tmp_path: Path) -> None:
    wide = teacher_file(tmp_path, {**SMALL, "num_feat": 12})
    terms = {"fit": {"type": "FitNetLoss", "at": "body.0"}}
    (batch,) = images(1)
    mine, other = make_trainer(options({"distill_opt": terms}, **wide), batch), make_trainer(options({}), batch)
    with refuses("terms", "fit.adapters.0.conv.weight"):
        mine.model.load_state(other.model.state())


def test_an_accumulated_step_is_that_of_the_whole_batch_and_holds_one_micro_batch_at_a_time() -> None:
    """The same four images as one batch, and as two halves drawn one after the other."""
    (batch,) = images(1)
    halves = [{name: maps.chunk(2)[i] for name, maps in batch.items()} for i in range(2)]
    plain = {"optim_g": {"type": "SGD", "lr": 1.0}}
    moved, seen = [], []
    for more, data in (({}, [batch]), ({"accumulation": 2}, halves)):
        torch.manual_seed(0)
        trainer = make_trainer(options({**plain, **more}), batch)
        trainer.model.student.register_forward_pre_hook(lambda net, given: seen.append(len(given[0])))
        before = weights(trainer)
        train(trainer, data)
        moved.append(weights(trainer) - before)
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-6)
    assert seen == [4, 2, 2]
