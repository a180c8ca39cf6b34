"""The command line in processes of its own: two of them train as one; signals save and leave; kills lose nothing."""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from kdsr_arch.models.distill_model import DistillModel
from kdsr_arch.models.networks import build_network

_spec = importlib.util.spec_from_file_location("children", Path(__file__).with_name("children.py"))
_children = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_children)
Child, PATIENCE = _children.Child, _children.PATIENCE

TEACHER = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 12, "num_block": 1, "upscale": 2}
TERMS = {
    "fit": {"type": "FitNetLoss", "at": "body.0", "loss_weight": 0.1},
    "out": {"type": "L1Loss", "loss_weight": {"balance": 0.5, "window": 2}},
}
LONG = {"train": {"total_iter": 100000}, "logger": {"print_freq": 10, "save_checkpoint_freq": 100000}, "val": None}


def start_two(option_file: Path, *flags: str, **kwargs: Any) -> list[Child]:
    """Two processes that train together."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = str(held.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    flags = ("--launcher", "pytorch", *flags)
    return [Child(option_file, *flags, RANK=str(r), LOCAL_RANK=str(r), **shared, **kwargs) for r in range(2)]


def finish(*children: Child) -> list[tuple[int, str]]:
    return [child.finish() for child in children]


def wait_for_training(folder: Path, child: Child | subprocess.Popen, iteration: int = 1) -> None:
    """Until `iteration` is in the history."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        path = folder / "history.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        if lines and lines[-1].endswith("}") and json.loads(lines[-1])["iter"] >= iteration:
            return
        assert child.poll() is None, child.said()
        time.sleep(0.02)
    raise AssertionError("the training did not start")


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    torch.manual_seed(1)
    path = tmp_path / "teacher.pth"
    torch.save({"params": build_network(TEACHER).state_dict()}, path)
    return str(path)


def state(folder: Path, iteration: int) -> dict[str, Any]:
    return torch.load(folder / "training_states" / f"{iteration}.state", weights_only=True)


def close(one: Any, other: Any, where: str = "") -> None:
    """Equal to the accuracy of float32 sums in another order."""
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=lambda m: f"{where}: {m}")
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            close(one[key], other[key], f"{where}.{key}")
    else:
        assert one == other, where


@pytest.mark.parametrize("model_type", ["ImageDistillModel", "SRModel"])
def test_two_processes_equal_one_with_the_same_global_batch(model_type, write_options, teacher, tmp_path) -> None:
    taught = {"network_t": TEACHER, "path": {"pretrain_network_t": teacher}, "train": {"distill_opt": TERMS}}
    common = {"model_type": model_type, **(taught if model_type == "ImageDistillModel" else {})}
    # Adam divides by the gradient's size, which makes much of the rounding of gradients near zero
    common["train"] = {**common.get("train", {}), "optim_g": {"type": "SGD", "lr": 0.1, "momentum": 0.9}}
    two = start_two(write_options(tmp_path / "two", **common, datasets={"train": {"batch_size_per_gpu": 2}}))
    one = Child(write_options(tmp_path / "one", **common))
    for code, err in finish(one, *two):
        assert code == 0, err
    folders = [tmp_path / part / "experiments" / "tiny" for part in ("one", "two")]
    ours, theirs = (state(folder, 8)["model"] for folder in folders)
    names = ("net_g", "net_g_ema", "train_only") if model_type == "ImageDistillModel" else ("networks",)
    for name in names:
        close(ours[name], theirs[name], name)
    records = [[json.loads(line) for line in (f / "history.jsonl").read_text().splitlines()] for f in folders]
    for a, b in zip(*records, strict=True):
        assert (a["kind"], a["iter"], a.get("protocol")) == (b["kind"], b["iter"], b.get("protocol"))
        for key in a.keys() - {"kind", "iter", "protocol", "dataset", "lr"}:
            assert a[key] == pytest.approx(b[key], rel=1e-3), (a["iter"], key)


@pytest.mark.slow
def test_resume_with_another_number_of_processes(write_options, teacher, tmp_path) -> None:
    taught = {"network_t": TEACHER, "path": {"pretrain_network_t": teacher}, "train": {"distill_opt": TERMS}}
    half = {**taught, "train": {**taught["train"], "total_iter": 4}}
    two = {"train": {"batch_size_per_gpu": 2}}
    ends = finish(Child(write_options(tmp_path / "one", **taught)), Child(write_options(tmp_path / "mixed", **half)))
    assert all(code == 0 for code, _ in ends), ends
    ends = finish(*start_two(write_options(tmp_path / "mixed", **taught, datasets=two), "--auto_resume"))
    assert all(code == 0 for code, _ in ends), ends
    assert "of 1 processes, now there are 2" in ends[0][1]
    ours, theirs = (state(tmp_path / p / "experiments" / "tiny", 8)["model"] for p in ("one", "mixed"))
    close(ours["net_g"], theirs["net_g"])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(signum, write_options, tmp_path) -> None:
    workers = {"datasets": {"train": {"num_worker_per_gpu": 1}}}
    process = Child(write_options(**LONG, **workers))
    folder = tmp_path / "experiments" / "tiny"
    wait_for_training(folder, process, 10)
    process.send_signal(signum)
    code, err = finish(process)[0]
    assert code == 128 + signum, err
    assert f"{signum.name}: finishing this step, saving, leaving" in err and "--auto_resume goes on" in err
    (saved,) = (folder / "training_states").glob("*.state")
    assert torch.load(saved, weights_only=True)["iter"] == int(saved.stem)


def test_a_second_signal_leaves_at_once(write_options, tmp_path) -> None:
    def prepare() -> None:
        original = DistillModel.optimize_parameters

        def endless(self: DistillModel, current_iter: int) -> None:
            original(self, current_iter)
            if current_iter == 11:
                time.sleep(1000)

        DistillModel.optimize_parameters = endless  # type: ignore[method-assign]

    child = Child(write_options(**LONG), prepare=prepare)
    wait_for_training(tmp_path / "experiments" / "tiny", child, 10)
    time.sleep(0.2)
    child.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    assert child.finish()[0] == 143


def test_a_signal_to_one_of_two_processes_stops_both(write_options, tmp_path) -> None:
    processes = start_two(write_options(**LONG))
    wait_for_training(tmp_path / "experiments" / "tiny", processes[0], 10)
    processes[1].send_signal(signal.SIGTERM)
    assert [code for code, _ in finish(*processes)] == [143, 143]
    assert len(list((tmp_path / "experiments" / "tiny" / "training_states").glob("*.state"))) == 1


def test_second_run_in_the_same_folder_is_refused(write_options, tmp_path) -> None:
    path = write_options(**LONG)
    first = Child(path)
    wait_for_training(tmp_path / "experiments" / "tiny", first, 10)
    code, err = finish(Child(path))[0]
    assert code == 2 and f"process {first.pid}" in err and "Traceback" not in err
    assert not list((tmp_path / "experiments").glob("tiny_archived_*"))
    first.send_signal(signal.SIGTERM)
    finish(first)


def test_non_finite_loss_ends_with_one_sentence(write_options, tmp_path) -> None:
    code, err = finish(Child(write_options(train={"optim_g": {"type": "SGD", "lr": 1e25}})))[0]
    assert code == 2 and "became NaN or infinite" in err
    assert err.count("became NaN") == 1 and "Traceback" not in err


@pytest.mark.slow
def test_a_closed_console_loses_nothing(write_options, tmp_path) -> None:
    """The terminal, or the program that read the output, is gone when the signal comes."""
    command = [sys.executable, "-m", "kdsr_arch.cli", "train", "-opt", str(write_options(**LONG))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    folder = tmp_path / "experiments" / "tiny"
    wait_for_training(folder, process)
    assert process.stdout is not None
    process.stdout.close()
    time.sleep(0.5)  # long enough for lines that nobody reads
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    last = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])["iter"]
    assert max(int(path.stem) for path in (folder / "training_states").glob("*.state")) >= last
