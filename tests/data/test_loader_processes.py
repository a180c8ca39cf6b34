"""A loader process that dies or fails is told at once, and none outlives the loader."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from kdsr_arch.data.loader import Batches, PlannedSampler
from kdsr_arch.errors import Lost, ProgramFault
from tests.helpers.messages import missing, refuses
from tests.helpers.processes import PATIENCE, environment

BAD = 5  # the data set's index at which it goes wrong


class Unsendable(str):
    """What a worker can put into a batch, but not send."""

    def __reduce__(self):
        raise TypeError("cannot be sent")


class Faulty(torch.utils.data.Dataset):
    """Its sample BAD does what it is told to."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.begun = multiprocessing.Event()

    def __len__(self) -> int:
        return 20

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        sample = {"lq": torch.zeros(3, 4, 4), "key": str(index)}
        if self.fault == "hang":
            self.begun.set()
            time.sleep(1000)
        if index == BAD:
            if self.fault.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, self.fault))
            elif self.fault == "exit":
                os._exit(0)
            elif self.fault == "raise":
                raise ZeroDivisionError("a fault of the class")
            elif self.fault == "sys.exit":
                sys.exit(3)
            elif self.fault == "shape":
                sample["lq"] = torch.zeros(3, 4, 5)
            elif self.fault == "memory":
                raise RuntimeError("unable to allocate shared memory(shm) for file </x>: No space left on device (28)")
            elif self.fault == "send":
                sample["key"] = Unsendable("x")
        return sample


def batches(fault: str, workers: int) -> Batches:
    return Batches(Faulty(fault), PlannedSampler(20, 2, seed=3, total_iter=40), workers)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGBUS", "SIGSEGV"])
def test_a_death_is_told_with_its_signal(name, workers) -> None:
    with refuses(name, kind=Lost):
        list(batches(name, workers))
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_process_that_leaves_is_missed() -> None:
    with refuses("exit code 0", kind=Lost):
        list(batches("exit", 2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", ["raise", "sys.exit", "shape"])
def test_an_exception_of_the_data_set_keeps_its_traceback(fault, workers) -> None:
    told = {"raise": [f"sample {BAD} of Faulty", "ZeroDivisionError: a fault of the class"], "shape": ["RuntimeError"]}
    told["sys.exit"] = [f"sample {BAD} of Faulty", "SystemExit: 3"]
    with pytest.raises(ProgramFault) as caught:
        list(batches(fault, workers))
    assert not missing(str(caught.value), *told[fault])
    assert ("in default_collate" if fault == "shape" else "in sample") in caught.value.trace
    assert not multiprocessing.active_children()


def test_a_batch_that_cannot_be_sent_is_told() -> None:
    """multiprocessing would drop it, and the training wait for ever."""
    with refuses("cannot be sent", kind=ProgramFault):
        list(batches("send", 2))
    assert not multiprocessing.active_children()


def test_full_shared_memory_is_told_with_what_to_do() -> None:
    with refuses("/dev/shm", "num_worker_per_gpu", without=["RuntimeError"]):
        list(batches("memory", 2))


def test_a_signal_to_all_processes_leaves_the_workers_at_work() -> None:
    source = batches("none", 2)
    next(source), next(source)  # each has made one
    for child in multiprocessing.active_children():
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(child.pid or 0, number)
    assert sum(1 for _ in source) == 38
    source.close()
    assert not multiprocessing.active_children()


def test_a_signal_that_comes_while_a_worker_starts_leaves_it_at_work(monkeypatch) -> None:
    from torch.utils.data._utils import signal_handling

    handlers, main = signal_handling._set_worker_signal_handlers, os.getpid()

    def hit() -> None:
        handlers()
        assert os.getpid() != main
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", hit)
    source = batches("none", 2)
    assert sum(1 for _ in source) == 40
    source.close()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.slow
def test_a_process_that_hangs_is_ended() -> None:
    dataset = Faulty("hang")
    source = Batches(dataset, PlannedSampler(20, 2, seed=3, total_iter=40), 1)
    assert dataset.begun.wait(PATIENCE)
    source.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_the_program_ends_although_nobody_closed_the_loader() -> None:
    """multiprocessing waits for its children at the end, which ignore the SIGTERM that it sends."""
    code = "from tests.data.test_loader_processes import batches; left = batches('none', 2); next(left)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
