"""A bench that is stopped: what is under way saves and leaves, nothing else starts, and the same command goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import yaml

from kdsr_arch import cli
from kdsr_arch.parallel.subcommands import Subcommands
from tests.helpers.images import write_textures
from tests.helpers.processes import Process

NET = {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 4}


def write_bench(folder: Path) -> Path:
    write_textures(folder / "images", 1, 48, 64)
    train = {
        "name": "noise",
        "type": "ImagePairDataset",
        "gt_size": 32,
        "dataroot_gt": str(folder / "images"),
        "batch_size_per_gpu": 1,
        "num_worker_per_gpu": 0,
    }
    options = {
        "name": "base",
        "model_type": "ImageDistillModel",
        "scale": 4,
        "num_gpu": 0,
        "network_g": NET,
        "datasets": {"train": train},
        "logger": {"print_freq": 5},
        "train": {"total_iter": 100, "optim_g": {"type": "Adam"}, "pixel_opt": {"type": "L1Loss"}},
    }
    (folder / "base.yml").write_text(yaml.safe_dump(options))
    bench = {"name": "b", "base": "base.yml", "seeds": [0, 1, 2], "budgets": [10**6], "jobs": 2, "rows": {"alone": {}}}
    (folder / "bench.yml").write_text(yaml.safe_dump(bench))
    return folder / "bench.yml"


def trainings(folder: Path) -> list[int]:
    """Return the processes that work on an option file of this folder's benches."""
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"train" in words and any(word.startswith(bytes(folder / "experiments")) for word in words):
            processes.append(int(process.name))
    return processes


def wait_until(true, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_bench_saves_the_trainings_and_starts_no_other(tmp_path: Path, signum: int, code: int) -> None:
    file = write_bench(tmp_path)

    def work() -> int:
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a shell's background job ignores it, and so do its children
        os.chdir(tmp_path)
        return cli.main(["bench", str(file), "-o", str(tmp_path / "table")])

    bench = Process(work, tmp_path / "output", OMP_NUM_THREADS="1")
    experiments = [tmp_path / "experiments" / "bench" / "b" / f"alone_s{seed}_1000000" for seed in range(3)]
    try:
        wait_until(lambda: all((folder / "history.jsonl").exists() for folder in experiments[:2]) or bench.poll())
        bench.send_signal(signum)
        ended, said = bench.finish()
    finally:
        for process in trainings(tmp_path):
            os.kill(process, signal.SIGKILL)
    assert ended == code, said
    assert "the same command resumes" in said and "FAILED" not in said
    assert not trainings(tmp_path) and not experiments[2].exists()
    assert all(list((folder / "training_states").glob("*.state")) for folder in experiments[:2])


def test_nothing_starts_once_they_were_stopped(tmp_path: Path) -> None:
    work = Subcommands(tmp_path, 1)
    assert work.run(["--version"]) is None
    assert "invalid choice" in str(work.run(["no-such-command"]))
    work.stop()
    assert work.run(["--version"]) == "not started: the others were stopped"
