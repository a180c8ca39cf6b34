"""Two processes with gloo are one training: same gradients and weights, same numbers, same samples after a resume; and
when one of them dies, all end with one sentence."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.distill import taps
from kdsr_arch.errors import UserError
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import ARCH_REGISTRY
from kdsr_arch.train.trainer import Trainer
from tests.helpers import networks
from tests.helpers.images import write_textures
from tests.helpers.processes import Child, die, environment, in_worker, start_two

for toy in (networks.Window, networks.Recurrent, networks.Image):
    if toy.__name__ not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(toy)

SGD = {"type": "SGD", "lr": 0.02, "momentum": 0.9}  # Adam would divide by gradients that are nothing but rounding
METRICS = {"psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": True}}
IMAGE_TERMS = {
    "fit": {"type": "FitNetLoss", "at": "head", "loss_weight": 0.1},
    "vid": {"type": "VIDLoss", "at": "up", "loss_weight": 0.01},
    "out": {"type": "L1Loss", "loss_weight": {"balance": 0.5, "measurements": 2}},
}
VIDEO_TERMS = {
    "spatial": {"type": "SpatialAttentionLoss", "at": "f_sr", "loss_weight": {"balance": 0.1, "measurements": 3}},
    "temporal": {"type": "TemporalMemoryLoss", "at": "f_sr", "normalize": "teacher_rms", "loss_weight": 0.5},
    "output": {"type": "L1Loss", "loss_weight": 0.5},
}
STAGES = [  # terms come and go, and so do frozen parts; `idle` of the student never gets a gradient
    {"iters": 12, "terms": ["fit", "vid"], "freeze": ["last"]},
    {"iters": 13, "terms": ["pixel", "out"], "freeze": ["head", "vid"]},
    {"iters": 25, "freeze": ["fit"]},
]


def _clips(root: Path) -> Path:
    """Three clips of different lengths and sizes."""
    for number, (frames, width) in enumerate(((4, 32), (3, 40), (5, 24))):
        write_textures(root / f"clip{number}", frames, 32, width, digits=8)
    return root


def _scenario(kind: str, root: Path, images: Path) -> dict[str, Any]:
    """An option file for four samples an iteration in one process, its teacher and its data written below `root`."""
    video = kind == "video"
    teacher = {"type": "Window", "num_feat": 6} if video else {"type": "Image", "num_feat": 6}
    torch.manual_seed(1)
    torch.save({"params": getattr(networks, teacher["type"])(6).state_dict()}, root / "teacher.pth")
    data: dict[str, Any] = {"type": "ImagePairDataset", "dataroot_gt": str(images), "degradation": "BI"}
    if video:
        data |= {"type": "ClipDataset", "dataroot_gt": str(_clips(root / "clips"))}
    train = {**data, "gt_size": 16, "batch_size_per_gpu": 4, "num_worker_per_gpu": 0, "use_hflip": True}
    return {
        "name": "tiny", "model_type": "VideoDistillModel" if video else "ImageDistillModel", "scale": 2, "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {"train": {**train, **({"clip_length": 2, "num_frame": 3} if video else {})},
                     "val": {**data, "name": "Val"}},
        "network_g": {"type": "Recurrent" if video else "Image"}, "network_t": teacher,
        "path": {"pretrain_network_t": str(root / "teacher.pth")},
        "teacher": {"amp": "bf16" if video else "no", "compile": not video},
        "train": {"total_iter": 50, "ema_decay": 0.9, "optim_g": SGD, "pixel_opt": {"type": "L1Loss"}, "ratio_freq": 5,
                  "distill_opt": VIDEO_TERMS if video else IMAGE_TERMS, **({} if video else {"stages": STAGES})},
        "val": {"val_freq": 25, "pbar": False, "metrics": METRICS},
        "logger": {"print_freq": 5, "save_checkpoint_freq": 25},
    }  # fmt: skip


def _write(root: Path, options: dict[str, Any], batch: int | None = None, **logger: Any) -> Path:
    """The option file below `root`, for `batch` samples in each process."""
    copied = json.loads(json.dumps(options))
    if batch:
        copied["datasets"]["train"]["batch_size_per_gpu"] = batch
    copied["logger"].update(logger)
    path = root / "options" / "tiny.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(copied))
    return path


def _finish(*children: Any) -> list[str]:
    """What each said; all ended well."""
    ends = [child.finish() for child in children]
    for code, said in ends:
        assert code == 0, said
    return [said for _, said in ends]


def _watched(root: Path) -> Callable[[], None]:
    """Writes the gradients of the first and the last step to `root`; lets a compiled teacher do without a compiler."""

    def prepare() -> None:
        original, seen = Trainer.check_finite, set()

        def look(self: Trainer, iteration: int) -> None:
            """On the CPU first called right after the gradients were averaged."""
            original(self, iteration)
            if iteration in (1, 50) and iteration not in seen and distributed.is_main():
                torch.save([p.grad for p in self.model.parameters], root / f"gradients_{iteration}.pth")
            seen.add(iteration)

        Trainer.check_finite = look  # type: ignore[method-assign]
        taps.compile_network = partial(taps.compile_network, backend="aot_eager")

    return prepare


@pytest.fixture(scope="module", params=["image", "video"])
def runs(request: Any, images: Path, tmp_path_factory: Any) -> tuple[Path, dict[str, Any]]:
    """A folder that holds one/ and two/, the same training by one and by two processes; and its options."""
    root = tmp_path_factory.mktemp(request.param)
    options = _scenario(request.param, root, images)
    one, two = root / "one", root / "two"
    children = [Child(_write(one, options), prepare=_watched(one))]
    children += start_two(_write(two, options, batch=2), prepare=(_watched(two), _watched(two)))
    _finish(*children)
    return root, options


def _state(root: Path, iteration: int) -> dict[str, Any]:
    path = root / "experiments" / "tiny" / "training_states" / f"{iteration}.state"
    state = torch.load(path, weights_only=True)
    return {**state["model"], "ratios": state["ratios"]}


def _close(one: Any, other: Any, where: str, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Equal up to float32 sums in another order."""
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol, msg=lambda m: f"{where}: {m}")
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            _close(one[key], other[key], f"{where}.{key}", rtol, atol)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-4), where
    else:
        assert one == other, where


def _same_training(one: Path, two: Path) -> None:
    """The last states: student, average, adapters, trained losses, balances, momenta."""
    ours, theirs = _state(one, 50), _state(two, 50)
    for part in ("net_g", "net_g_ema", "train_only", "optimizer", "ratios"):
        pair = [m[part]["state"] if part == "optimizer" else m[part] for m in (ours, theirs)]
        _close(*pair, part)


def test_gradients_equal_those_of_one_process(runs) -> None:
    root, _ = runs
    for step in (1, 50):
        pairs = zip(*(torch.load(root / k / f"gradients_{step}.pth", weights_only=True) for k in ("one", "two")),
                    strict=True)  # fmt: skip
        missing = 0
        for number, (one, two) in enumerate(pairs):
            assert (one is None) == (two is None), number
            missing += one is None
            if one is not None:
                # relative to the largest of its tensor: what sums of float32 in another order leave
                assert (one - two).abs().max() <= 2e-5 * one.abs().max() + 1e-9, (step, number)
        assert missing < number


def test_after_50_steps_everything_that_is_trained_is_that_of_one_process(runs) -> None:
    root, options = runs
    _same_training(root / "one", root / "two")
    keys = set(_state(root / "two", 50)["train_only"])
    wanted = ("lstm", "rms", "adapters") if options["network_g"]["type"] == "Recurrent" else ("estimators", "adapters")
    assert all(any(name in key for key in keys) for name in wanted), keys


def test_logs_and_validation_equal_those_of_one_process(runs) -> None:
    root, _ = runs
    files = [root / k / "experiments" / "tiny" / "history.jsonl" for k in ("one", "two")]
    records = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    assert {r["kind"] for r in records[0]} == {"train", "val"} and len(records[0]) == 12
    for a, b in zip(*records, strict=True):
        assert list(a) == list(b)
        for key, value in a.items():
            wanted = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert b[key] == wanted, (a["iter"], key)


@pytest.mark.parametrize("way", ["two to one", "one to two"])
def test_resumed_by_another_number_of_processes_training_goes_on_with_the_same_samples(runs, way, tmp_path) -> None:
    root, options = runs
    before, after = way.split(" to ")
    shutil.copytree(root / before / "experiments", tmp_path / "experiments")
    (tmp_path / "experiments" / "tiny" / "training_states" / "50.state").unlink()
    if after == "one":
        said = _finish(Child(_write(tmp_path, options), "--auto_resume", prepare=_watched(tmp_path)))
    else:
        both = _watched(tmp_path), _watched(tmp_path)
        said = _finish(*start_two(_write(tmp_path, options, batch=2), "--auto_resume", prepare=both, slurm=True))
    assert "Resuming from iteration 25" in said[0] and "An iteration took" not in said[0]
    _same_training(root / "one", tmp_path)


def test_a_model_of_basicsr_trains_the_same_on_two_processes(write_options, tmp_path) -> None:
    common = {"model_type": "SRModel", "train": {"optim_g": SGD}}
    two = start_two(write_options(tmp_path / "two", **common, datasets={"train": {"batch_size_per_gpu": 2}}))
    _finish(Child(write_options(tmp_path / "one", **common)), *two)
    ours, theirs = (_state(tmp_path / part, 8)["networks"] for part in ("one", "two"))
    assert set(ours) == {"net_g", "net_g_ema"}
    _close(ours, theirs, "networks")


def _at_iteration(number: int, action: Callable[[], None]) -> Callable[[], None]:
    def prepare() -> None:
        original = Trainer.step

        def step(self: Trainer, iteration: int) -> None:
            if iteration == number:
                action()
            original(self, iteration)

        Trainer.step = step  # type: ignore[method-assign]

    return prepare


def _hang_up_and_die() -> None:
    """Break the connections, then die: torchrun ends the survivor of a death so soon that it may not get to speak."""
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{entry}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(entry))) as connection:
                    connection.shutdown(socket.SHUT_RDWR)
    time.sleep(5)
    die()


def _bad_sample() -> None:
    raise UserError("clip7: frame 3 cannot be read")


def _bug() -> None:
    raise ZeroDivisionError("a fault of the program")


@pytest.mark.parametrize(
    ("fault", "victim", "codes", "sentence"),
    [
        (die, 1, (2, -9), "another process of this training has died"),
        (die, 0, (-9, 2), "another process of this training has died"),
        (_bad_sample, 1, (2, 2), "clip7: frame 3 cannot be read"),
        (_bug, 1, (2, 2), "ZeroDivisionError: a fault of the program"),
    ],
)
def test_a_process_that_ends_takes_the_others_along_with_one_message(
    fault, victim, codes, sentence, images, tmp_path
) -> None:
    options = _scenario("image", tmp_path, images)
    options["teacher"]["compile"] = False
    path = _write(tmp_path, options, batch=2, save_checkpoint_freq=3)
    prepare = tuple(_at_iteration(8, fault) if rank == victim else None for rank in range(2))
    report = tmp_path / "report.json"
    ends = [child.finish() for child in start_two(path, prepare=prepare, TORCHELASTIC_ERROR_FILE=str(report))]
    assert tuple(code for code, _ in ends) == codes, ends
    said = "".join(text for _, text in ends)
    assert said.count(sentence) == 1, said
    assert "Traceback" not in said and said.count("error: ") == 1, said
    folder = tmp_path / "experiments" / "tiny"
    assert sorted(int(p.stem) for p in (folder / "training_states").iterdir()) == [3, 6]
    if fault is not die:  # torchrun's own report shows the reason as well
        assert sentence in json.loads(report.read_text())["message"]
    if victim == 1:  # the main process keeps the log: it names the culprit and what is left
        (log,) = folder.glob("train_tiny_*.log")
        assert sentence in log.read_text() and "the state of iteration 6 is kept" in log.read_text()
        assert ("in _bug" in log.read_text()) == (fault is _bug), "the traceback is the victim's"


def test_processes_that_read_different_options_are_refused(images, tmp_path) -> None:
    options = _scenario("image", tmp_path, images)
    files = _write(tmp_path / "a", options, batch=2), _write(tmp_path / "b", options, batch=3)
    ends = [child.finish() for child in start_two(files)]
    said = "".join(text for _, text in ends)
    assert [code for code, _ in ends] == [2, 2], said
    assert said.count("different option files (batch_size_per_gpu differs)") == 1 and "Traceback" not in said
    assert not (tmp_path / "a" / "experiments" / "tiny").exists()


def test_another_global_batch_after_a_resume_is_warned_of(runs, tmp_path) -> None:
    root, options = runs
    shutil.copytree(root / "two" / "experiments", tmp_path / "experiments")
    said = _finish(Child(_write(tmp_path, options, batch=2), "--auto_resume", prepare=_watched(tmp_path)))
    assert "An iteration took 4 samples when the state was saved and takes 2 now" in said[0]


_loader_dies = in_worker(ClipDataset, 16, die)
WORKER = """
import os, sys
from tests.train import test_many_processes as many
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    many._loader_dies() if os.environ["FAULT"] == "loader" else many._at_iteration(6, many._hang_up_and_die)()
from kdsr_arch import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "told"),
    [("process", "another process of this training has died"), ("loader", "loader process died (SIGKILL)")],
)
def test_torchrun_restarts_a_killed_training_which_ends_as_the_unbroken_one(fault, told, images, tmp_path) -> None:
    """With batch normalization, whose statistics differ between processes, and bit for bit."""
    options = _scenario("video", tmp_path, images)
    options["network_g"], options["teacher"] = {"type": "Window"}, {}
    options["train"]["total_iter"] = 12
    options["datasets"]["train"]["num_worker_per_gpu"] = int(fault == "loader")
    whole = start_two(_write(tmp_path / "whole", options, batch=2, save_checkpoint_freq=4))
    path = _write(tmp_path / "broken", options, batch=2, save_checkpoint_freq=4)
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1"]
    command = [sys.executable, *launch, str(script), "train", "-opt", str(path), "--launcher", "pytorch"]
    env = environment(FAULT=fault)
    done = subprocess.run([*command, "--auto_resume"], capture_output=True, text=True, env=env, timeout=280)
    _finish(*whole)
    assert done.returncode == 0, done.stderr
    assert "Resuming from iteration 4" in done.stderr
    assert done.stderr.count("error: ") == done.stderr.count(told) == 1 and "Traceback" not in done.stderr
    one, two = (tmp_path / k / "experiments" / "tiny" for k in ("whole", "broken"))
    assert (one / "history.jsonl").read_text() == (two / "history.jsonl").read_text()
    for name in ("12", "latest", "best"):
        ours, theirs = (torch.load(f / "models" / f"net_g_{name}.pth", weights_only=True) for f in (one, two))
        assert any("running_mean" in key for key in ours["params_ema"])
        for part in ("params", "params_ema"):
            assert all(torch.equal(value, theirs[part][key]) for key, value in ours[part].items()), (name, part)
