"""The short form of benchmarks/long_run.py, and that it sees a leak."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from benchmarks import long_run
from kdsr_arch.train.trainer import Trainer
from tests.helpers.processes import Child

WARM_UP = 0.03  # of the memory, that allocators may still take after the first iterations of so short a run


def leaking() -> None:
    """From now on each training step of this process keeps two megabytes and an open file."""
    original, kept = Trainer.step, []

    def step(self: Trainer, iteration: int) -> None:
        original(self, iteration)
        kept.append((torch.ones(2**19), os.dup(0)))

    Trainer.step = step  # type: ignore[method-assign]


@pytest.mark.slow
def test_memory_and_open_files_stay_flat(tmp_path) -> None:
    record = long_run.run(tmp_path, 300, Child)
    assert record["memory_growth"] < WARM_UP
    assert record["open_files_flat"] and record["log_flat"], record


@pytest.mark.slow
def test_a_leak_is_seen(tmp_path) -> None:
    record = long_run.run(tmp_path, 300, lambda file: Child(file, prepare=leaking))
    early, late = record["memory_mb"]  # the share of it would depend on what the process that forks holds already
    assert late - early > 300 and not record["memory_flat"], record
    assert not record["open_files_flat"], record


def test_looks_without_the_loader_process_do_not_hide_a_leak() -> None:
    def sample(iteration: int) -> long_run.Sample:
        whole = iteration <= 950
        memory = 10**8 + 10**5 * iteration - (0 if whole else 9 * 10**7)
        return long_run.Sample(iteration, memory, 9, iteration / 100, 50 * iteration, 2 if whole else 1)

    assert not long_run.judge([sample(i) for i in range(10, 1001, 10)], 1000)["memory_flat"]


@pytest.mark.parametrize("what", ["nothing", "memory", "files", "seconds", "log_bytes"])
def test_each_growth_is_judged_by_itself(what) -> None:
    def sample(iteration: int) -> long_run.Sample:
        grown: dict[str, Any] = {"memory": 10**8, "files": 9, "seconds": iteration / 100, "log_bytes": 50 * iteration}
        late = max(0, iteration - 900)
        grown["nothing"] = 0
        grown[what] += {"memory": 30_000, "files": 1, "seconds": 0.002, "log_bytes": 10, "nothing": 0}[what] * late
        del grown["nothing"]
        return long_run.Sample(iteration, **grown)

    record = long_run.judge([sample(i) for i in range(10, 1001, 10)], 1000)
    keys = {"memory": "memory_flat", "files": "open_files_flat", "seconds": "speed_flat", "log_bytes": "log_flat"}
    assert {key for key in keys.values() if not record[key]} == ({keys[what]} if what in keys else set())
