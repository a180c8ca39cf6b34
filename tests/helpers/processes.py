"""Trainings in processes of their own, for tests that stop and kill them."""

from __future__ import annotations

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


class Child:
    """A forked process that trains: as real as one from the command line, without its seconds of imports."""

    def __init__(
        self, option_file: Path, *flags: str, prepare: Callable[[], None] | None = None, **variables: str
    ) -> None:
        self.log = option_file.parent / f"stderr_{time.monotonic_ns()}"
        self.pid = os.fork()
        self.code: int | None = None
        if self.pid == 0:
            os._exit(self._work(option_file, flags, prepare, variables))
        with suppress(OSError):  # here as well as in the child: whichever comes first
            os.setpgid(self.pid, self.pid)

    def _work(self, option_file: Path, flags: tuple, prepare: Callable[[], None] | None, variables: dict) -> int:
        os.setpgid(0, 0)
        handle = os.open(self.log, os.O_CREAT | os.O_WRONLY)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.__stderr__ = sys.stderr
        try:
            os.environ.update(variables)
            if prepare is not None:
                prepare()
            code = cli.main(["train", "-opt", str(option_file), *flags])
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
        """Return the output so far."""
        return self.log.read_text() if self.log.exists() else ""

    def send_signal(self, signum: int) -> None:
        """Send a signal to the main process."""
        """Send a signal to the main process."""
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


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a subprocess: one thread, imports from this repository."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


def free_port() -> str:
    """Return a port of this machine that no program listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start_two(
    options: Path | tuple[Path, Path], *flags: str, prepare: tuple[Any, Any] = (None, None), slurm: bool = False,
    **variables: str,
) -> list[Any]:  # fmt: skip
    """Start two processes that train together, as torchrun or Slurm does."""
    shared = {"MASTER_PORT": free_port(), **variables}
    own: dict[str, Callable[[int], str]]
    if slurm:
        shared |= {"SLURM_NTASKS": "2", "SLURM_NODELIST": "localhost,other[2-3]", "SLURM_JOB_ID": "7"}
        own = {"SLURM_PROCID": str, "SLURM_LOCALID": str}
    else:
        shared |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        own = {"RANK": str, "LOCAL_RANK": str}
    files = options if isinstance(options, tuple) else (options, options)
    flags = ("--launcher", "slurm" if slurm else "pytorch", *flags)
    return [
        Child(files[r], *flags, prepare=prepare[r], **shared, **{k: f(r) for k, f in own.items()}) for r in range(2)
    ]
