"""Processes for tests: trainings to stop and kill, and pairs that work together."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdsr_arch import cli
from tests.helpers import ROOT

PATIENCE = 300  # seconds, for machines with much else to do


class Process:
    """A forked process: as real as one from the command line, without its seconds of imports.

    Attributes:
        pid: the process, which leads a group of its own.
        code: exit code, None while it runs.
    """

    def __init__(self, work: Callable[[], int | None], log: Path, **variables: str) -> None:
        """Start `work`, whose result is the exit code (None: 0), with these environment variables.

        Args:
            work: what the process does.
            log: file of its output.
        """
        self.log = log
        _give_back_memory()
        self.pid = os.fork()
        self.code: int | None = None
        if self.pid == 0:
            os._exit(self._run(work, variables))
        with suppress(OSError):  # here as well as in the child: whichever comes first
            os.setpgid(self.pid, self.pid)

    def _run(self, work: Callable[[], int | None], variables: dict[str, str]) -> int:
        os.setpgid(0, 0)
        handle = os.open(self.log, os.O_CREAT | os.O_WRONLY)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.__stderr__ = sys.stderr
        try:
            os.environ.update(variables)
            code = work() or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        return code

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        if self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def said(self) -> str:
        """Return the output so far."""
        return self.log.read_text() if self.log.exists() else ""

    def send_signal(self, signum: int) -> None:
        """Send a signal to the process alone."""
        os.kill(self.pid, signum)

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and the output."""
        deadline = time.monotonic() + PATIENCE
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise AssertionError(f"still running: {self.said()[-2000:]}")
            time.sleep(0.02)
        assert self.code is not None
        return self.code, self.said()


def _give_back_memory() -> None:
    """Free what is garbage, and give the system what is free: a child that fills it would not seem to grow."""
    gc.collect()
    with suppress(OSError, AttributeError):  # other C libraries than glibc
        ctypes.CDLL(None).malloc_trim(0)


class Child(Process):
    """A process that trains by an option file; `prepare` is called before."""

    def __init__(
        self, option_file: Path, *flags: str, prepare: Callable[[], None] | None = None, **variables: str
    ) -> None:
        def work() -> int:
            if prepare is not None:
                prepare()
            return cli.main(["train", "-opt", str(option_file), *flags])

        super().__init__(work, option_file.parent / f"stderr_{time.monotonic_ns()}", **variables)


def die() -> None:
    """End this process as the system does where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_worker(dataset: Any, number: int, action: Callable[[], None]) -> Callable[[], None]:
    """Return what patches a class of data sets: a loader process does `action` at its sample of that number."""

    def prepare() -> None:
        original, main, drawn = dataset.sample, os.getpid(), [0]

        def sample(self: Any, index: int, rng: Any) -> Any:
            drawn[0] += os.getpid() != main
            if drawn[0] == number:
                action()
            return original(self, index, rng)

        dataset.sample = sample

    return prepare


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a subprocess: one thread, imports from this repository before others."""
    places = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", **variables}


def free_port() -> str:
    """Return a port of this machine that no program listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def in_two_processes(work: Callable[[], None], folder: Path) -> None:
    """Call `work` in two processes of one group, as torchrun starts them; fail if it raises in one.

    Args:
        work: what each process does; it starts `parallel.distributed` with the launcher 'pytorch'.
        folder: for the output.
    """
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = [Process(work, folder / f"rank{rank}", **group, **_ranks(rank)) for rank in range(2)]
    for code, output in [process.finish() for process in processes]:
        assert code == 0, output


def _ranks(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def start_two(
    options: Path | tuple[Path, Path], *flags: str, prepare: tuple[Any, Any] = (None, None), slurm: bool = False,
    **variables: str,
) -> list[Any]:  # fmt: skip
    """Start two processes that train together, as torchrun or Slurm does."""
    shared = {"MASTER_PORT": free_port(), **variables}
    if slurm:
        shared |= {"SLURM_NTASKS": "2", "SLURM_NODELIST": "localhost,other[2-3]", "SLURM_JOB_ID": "7"}
    else:
        shared |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    files = options if isinstance(options, tuple) else (options, options)
    flags = ("--launcher", "slurm" if slurm else "pytorch", *flags)
    own = [{f"SLURM_{name}": str(rank) for name in ("PROCID", "LOCALID")} if slurm else _ranks(rank) for rank in (0, 1)]
    return [Child(files[r], *flags, prepare=prepare[r], **shared, **own[r]) for r in (0, 1)]
