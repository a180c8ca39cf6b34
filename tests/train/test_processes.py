"""The command line in processes of its own: signals save and leave; kills lose nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdsr_arch.data.image_dataset import ImagePairDataset
from kdsr_arch.train.trainer import Trainer
from tests.helpers.processes import PATIENCE, Child, die, in_worker, start_two

LONG = {"train": {"total_iter": 100000}, "logger": {"print_freq": 10, "save_checkpoint_freq": 100000}, "val": None}


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


def _fail() -> None:
    raise ZeroDivisionError("a fault of the class")


@pytest.mark.parametrize(("action", "told"), [(die, "SIGKILL"), (_fail, "ZeroDivisionError: a fault of the class")])
def test_a_loader_process_that_dies_or_fails_costs_one_sentence_and_a_resume(
    action, told, write_options, tmp_path
) -> None:
    many = {"train": {"total_iter": 40}, "datasets": {"train": {"num_worker_per_gpu": 2}}}
    whole = Child(write_options(tmp_path / "whole", **many))
    path = write_options(tmp_path / "broken", **many)
    code, err = Child(path, prepare=in_worker(ImagePairDataset, 30, action)).finish()
    assert code == 2 and err.count("error: ") == 1 and told in err and "Traceback" not in err, err
    folder = tmp_path / "broken" / "experiments" / "tiny"
    (log,) = folder.glob("train_tiny_*.log")
    assert told in log.read_text() and ("in _fail" in log.read_text()) == (action is _fail)
    kept = max(int(state.stem) for state in (folder / "training_states").iterdir())
    assert f"the state of iteration {kept} is kept, go on with --auto_resume" in err
    finish(whole, Child(path, "--auto_resume"))
    one, two = (tmp_path / part / "experiments" / "tiny" for part in ("whole", "broken"))
    assert (one / "history.jsonl").read_text() == (two / "history.jsonl").read_text()


def test_a_second_signal_leaves_at_once(write_options, tmp_path) -> None:
    def prepare() -> None:
        original = Trainer.step

        def endless(self: Trainer, iteration: int) -> None:
            original(self, iteration)
            if iteration == 11:
                time.sleep(1000)

        Trainer.step = endless  # type: ignore[method-assign]

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
