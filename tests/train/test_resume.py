"""N iterations equal k iterations, an interruption, and N - k more: bit for bit, with every kind of model."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdsr_arch.cli import main
from kdsr_arch.train import entry
from kdsr_arch.train.bridge import BridgedTrainer
from kdsr_arch.train.distill_model import DistillModel
from kdsr_arch.train.trainer import Trainer
from tests.helpers.messages import missing, refuses

TEACHER = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 12, "num_block": 1, "upscale": 2}
DISTILL = {
    "fit": {"type": "FitNetLoss", "at": "body.0", "loss_weight": 0.1},
    "out": {"type": "L1Loss", "loss_weight": {"balance": 0.5, "measurements": 2}},
}
STAGES = [
    {"iters": 3, "terms": ["fit"], "freeze": ["conv_last"]},
    {"iters": 3, "terms": ["pixel", "out"]},
    {"iters": 2, "gt_size": 24, "batch_size_per_gpu": 3},
]


def equal(a: Any, b: Any, where: str = "") -> None:
    """Assert that two nested containers hold the same values, tensors bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            equal(x, y, f"{where}[{index}]")
    else:
        assert a == b or (a != a and b != b), f"{where}: {a} {b}"


def same_outcome(one: Path, other: Path, last: int = 8) -> None:
    """Assert that two experiment folders ended in the same state, networks and history."""
    states = [torch.load(root / "training_states" / f"{last}.state", weights_only=True) for root in (one, other)]
    equal(*states)
    for name in (f"net_g_{last}", "net_g_latest", "net_g_best"):
        equal(*(torch.load(root / "models" / f"{name}.pth", weights_only=True) for root in (one, other)), where=name)
    assert (one / "history.jsonl").read_text() == (other / "history.jsonl").read_text()
    assert (one / "models" / "best.json").read_text() == (other / "models" / "best.json").read_text()


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Sends this process a signal within the given iteration."""

    def at(iteration: int, signum: int = signal.SIGTERM) -> None:
        for cls in (Trainer, BridgedTrainer):
            original = cls.step

            def step(self: Any, current_iter: int, original: Any = original) -> None:
                if current_iter == iteration:
                    os.kill(os.getpid(), signum)
                original(self, current_iter)

            monkeypatch.setattr(cls, "step", step)

    return at


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    """A teacher's weights on the disk."""
    from tests.helpers.networks import make_network

    path = tmp_path / "teacher.pth"
    torch.save({"params": make_network(TEACHER).state_dict()}, path)
    return str(path)


def kinds(teacher: str) -> dict[str, dict[str, Any]]:
    taught = {"network_t": TEACHER, "path": {"pretrain_network_t": teacher}}
    return {
        "alone": {},
        "distilled": {**taught, "train": {"distill_opt": DISTILL}},
        "staged": {**taught, "train": {"distill_opt": DISTILL, "stages": STAGES, "grad_clip": 0.5, "warmup_iter": 6}},
        "accumulated": {"train": {"accumulation": 2, "optim_g": {"type": "AdamW", "lr": 1e-3}}},
        "fp16": {"train": {"amp": "fp16"}},
        "bf16": {**taught, "train": {"amp": "bf16", "distill_opt": DISTILL, "channels_last": True}},
        "SRModel": {"model_type": "SRModel", "val": {"val_freq": 2}},
    }


@pytest.mark.parametrize("kind", ["alone", "distilled", "staged", "accumulated", "fp16", "bf16", "SRModel"])
@pytest.mark.parametrize("stop_at", [2, 4, 5])
def test_resumed_equals_unbroken(kind, stop_at, load, interrupt, teacher, placed, tmp_path) -> None:
    options = {**kinds(teacher)[kind], **placed}
    assert entry.train(load(tmp_path / "whole", **options)) == 0
    interrupt(stop_at, signal.SIGTERM)
    assert entry.train(load(tmp_path / "broken", **options)) == 128 + signal.SIGTERM
    folder = tmp_path / "broken" / "experiments" / "tiny"
    assert (folder / "training_states" / f"{stop_at}.state").exists()
    assert not (folder / "models" / "net_g_latest.pth").exists()
    assert entry.train(load(tmp_path / "broken", **options), True) == 0
    same_outcome(tmp_path / "whole" / "experiments" / "tiny", folder)


@pytest.mark.parametrize("kind", ["distilled", "SRModel"])
def test_other_number_of_workers_after_the_resume(kind, load, interrupt, teacher, tmp_path) -> None:
    options = kinds(teacher)[kind]
    entry.train(load(tmp_path / "whole", **options))
    interrupt(3, signal.SIGINT)
    assert entry.train(load(tmp_path / "broken", **options)) == 128 + signal.SIGINT
    more = {**options, "datasets": {"train": {"num_worker_per_gpu": 2}}}
    assert entry.train(load(tmp_path / "broken", **more), True) == 0
    one, other = (tmp_path / part / "experiments" / "tiny" for part in ("whole", "broken"))
    assert (one / "history.jsonl").read_text() == (other / "history.jsonl").read_text()
    equal(*(torch.load(root / "models" / "net_g_8.pth", weights_only=True) for root in (one, other)))


def test_killed_between_saving_and_validating_repeats_the_validation(load, monkeypatch, tmp_path) -> None:
    from kdsr_arch.train.validation import Validator

    entry.train(load(tmp_path / "whole"))
    original = Validator.run

    def die(self: Any, net: nn.Module, iteration: int, *keys: Any) -> Any:
        if iteration == 4:
            raise KeyboardInterrupt
        return original(self, net, iteration, *keys)

    with monkeypatch.context() as patched:
        patched.setattr(Validator, "run", die)
        with pytest.raises(KeyboardInterrupt):
            entry.train(load(tmp_path / "broken"))
    assert entry.train(load(tmp_path / "broken"), True) == 0
    same_outcome(*(tmp_path / part / "experiments" / "tiny" for part in ("whole", "broken")))


def test_signal_during_validation_leaves_at_once_and_loses_nothing(load, monkeypatch, tmp_path) -> None:
    from kdsr_arch.train.validation import Validator

    options = {"val": {"val_freq": 3}}  # no checkpoint is due at 3
    entry.train(load(tmp_path / "whole", **options))
    original = Validator.run

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Validator, "run", interrupted)
        assert entry.train(load(tmp_path / "broken", **options)) == 143
    folder = tmp_path / "broken" / "experiments" / "tiny"
    assert [p.name for p in (folder / "training_states").iterdir()] == ["3.state"]
    assert entry.train(load(tmp_path / "broken", **options), True) == 0
    same_outcome(tmp_path / "whole" / "experiments" / "tiny", folder)


def test_random_numbers_drawn_by_the_network_go_on(load, interrupt, placed, monkeypatch, tmp_path) -> None:
    original = DistillModel.__init__

    def with_noise(self: DistillModel, opt: Any, sample: Any) -> None:
        original(self, opt, sample)

        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            return output + 0.01 * torch.randn_like(output) + float(np.random.rand()) * 0.01

        self.student.conv_first.register_forward_hook(hook)

    monkeypatch.setattr(DistillModel, "__init__", with_noise)
    entry.train(load(tmp_path / "whole", **placed))
    interrupt(5, signal.SIGTERM)
    entry.train(load(tmp_path / "broken", **placed))
    entry.train(load(tmp_path / "broken", **placed), True)
    same_outcome(*(tmp_path / part / "experiments" / "tiny" for part in ("whole", "broken")))


def test_torn_state_is_passed_over(load, tmp_path, capsys) -> None:
    entry.train(load(tmp_path / "whole"))
    entry.train(load(tmp_path / "broken"))
    folder = tmp_path / "broken" / "experiments" / "tiny"
    state = folder / "training_states" / "8.state"
    state.write_bytes(state.read_bytes()[:-300])
    assert entry.train(load(tmp_path / "broken"), True) == 0
    said = capsys.readouterr().err
    assert "passed over" in said and "8.state" in said and "iteration 4" in said
    same_outcome(tmp_path / "whole" / "experiments" / "tiny", folder)


def test_finished_run_resumed_is_finished(load, tmp_path) -> None:
    entry.train(load(tmp_path))
    folder = tmp_path / "experiments" / "tiny"
    before = (folder / "history.jsonl").read_text()
    assert entry.train(load(tmp_path), True) == 0
    assert (folder / "history.jsonl").read_text() == before


def test_an_auto_resume_without_a_state_is_told(load, capsys) -> None:
    opt = load()
    entry.train(opt)
    assert "no state" not in capsys.readouterr().err
    shutil.rmtree(opt.folder)
    entry.train(opt, True)
    said = capsys.readouterr().err
    assert not missing(said, "no state", opt.folder / "training_states", "iteration 1") and "warning" not in said
    entry.train(opt, True)
    assert "no state" not in capsys.readouterr().err


@pytest.mark.parametrize("place", [os.rename, shutil.copytree])
def test_an_experiment_that_was_renamed_is_found_by_its_option_file(place, write_options, tmp_path, capsys) -> None:
    assert main(["train", "-opt", str(write_options())]) == 0
    folder, renamed = (tmp_path / "experiments" / name for name in ("tiny", "renamed"))
    place(folder, renamed)
    shutil.rmtree(folder, ignore_errors=True)
    capsys.readouterr()
    words = ["train", "-opt", str(renamed / "tiny.yml"), "--auto_resume"]
    assert main([*words, "--force_yml", "name=renamed"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(words) == 0
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if "warning" in line]
    assert not missing(line, renamed, folder, "name: renamed") and "starting at iteration 1" in said


def test_longer_training_continues_a_finished_one(load, tmp_path) -> None:
    longer = {"train": {"total_iter": 12}}
    entry.train(load(tmp_path / "whole", **longer))
    entry.train(load(tmp_path / "broken"))
    assert entry.train(load(tmp_path / "broken", **longer), True) == 0
    roots = [tmp_path / part / "experiments" / "tiny" for part in ("whole", "broken")]
    models = [torch.load(r / "training_states" / "12.state", weights_only=True)["model"] for r in roots]
    equal(*models)


def test_named_state_is_resumed(load, tmp_path) -> None:
    entry.train(load(tmp_path / "whole"))
    source = tmp_path / "whole" / "experiments" / "tiny"
    options = {"path": {"resume_state": str(source / "training_states" / "4.state")}}
    assert entry.train(load(tmp_path / "moved", **options)) == 0
    target = tmp_path / "moved" / "experiments" / "tiny"
    equal(*(torch.load(r / "training_states" / "8.state", weights_only=True)["model"] for r in (source, target)))


def test_state_past_the_end_is_refused(load, tmp_path) -> None:
    entry.train(load(tmp_path))
    with refuses("8.state", "train.total_iter 6"):
        entry.train(load(tmp_path, train={"total_iter": 6}), True)
