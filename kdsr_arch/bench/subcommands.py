"""`kdsr` commands in processes of their own, several at once, which are stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO


def start(
    command: list[str], threads: int, root: Path | None = None, output: int | IO = subprocess.PIPE
) -> subprocess.Popen:
    """Start `kdsr` with ``command``, in a session of its own: an interrupt at the terminal reaches this process alone.

    Args:
        threads: CPU threads.
        root: the folder that it works in; this process's by default.
        output: where what it says goes, as of `subprocess.Popen`.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    whole = [sys.executable, "-m", "kdsr_arch.cli", *command]
    return subprocess.Popen(
        whole,
        cwd=root,
        env=environment,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


class Subcommands:
    """Runs commands, from any thread, until it is stopped.

    An interrupt stops them once (a training saves and leaves; a second signal would make it leave at once).

    Args:
        root: the folder that they work in.
        threads: CPU threads of each.
    """

    def __init__(self, root: Path, threads: int) -> None:
        self.root, self.threads = root, threads
        self._running: set[subprocess.Popen] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, command: list[str]) -> str | None:
        """Run `kdsr` with ``command`` to its end; the tail of what it said where it failed, else None.

        What breaks in upon this thread, an interrupt say, stops all commands, and is raised once this one has ended.
        """
        process = self._start(command)
        if process is None:
            return "not started: the others were stopped"
        try:
            said = process.communicate()[0]
        except BaseException:
            self.stop()
            process.wait()
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        return said[-2000:] if process.returncode != 0 else None

    def _start(self, command: list[str]) -> subprocess.Popen | None:
        with self._lock:
            if self._stopped:
                return None
            process = start(command, self.threads, self.root)
            self._running.add(process)
            return process

    def stop(self) -> None:
        """Ask those that run to end, and start no more; does not wait."""
        with self._lock:
            told, self._stopped = self._stopped, True
            running = [] if told else list(self._running)
        for process in running:
            process.send_signal(signal.SIGTERM)
