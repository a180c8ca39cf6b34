"""`kdsr` commands in processes of their own, several at once, which are stopped together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO


def start(command: list[str], threads: int, root: Path | None, output: int | IO) -> subprocess.Popen:
    """Start `kdsr` in a session of its own: an interrupt at the terminal reaches this process alone.

    Args:
        command: the words after `kdsr`.
        threads: CPU threads.
        root: the folder that it works in; this process's by default.
        output: where its output goes, as of `subprocess.Popen`.
    """
    words = [sys.executable, "-m", "kdsr_arch.cli", *command]
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))}
    return subprocess.Popen(
        words, cwd=root, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip


class Subcommands:
    """Runs commands, from any thread, until it is stopped.

    It passes one signal on to each command (a training saves and leaves; a second signal would make it leave at once).

    Args:
        root: the folder that they work in; this process's by default.
        threads: CPU threads of each.
    """

    def __init__(self, root: Path | None, threads: int) -> None:
        self.root, self.threads = root, threads
        self._running: set[subprocess.Popen] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, command: list[str], log: Path | None = None) -> str | None:
        """Run `kdsr` to its end.

        An exception in this thread, such as an interrupt, stops all commands, and is raised once this one has ended.

        Args:
            command: the words after `kdsr`.
            log: the file that keeps the output.

        Returns:
            None, or the end of the output of a command that failed.
        """
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        writing = log.open("w", encoding="utf-8") if log is not None else contextlib.nullcontext(subprocess.PIPE)
        with writing as output, self._lock:
            if self._stopped:
                return "not started: the others were stopped"
            process = start(command, self.threads, self.root, output)
            self._running.add(process)
        try:
            text = process.communicate()[0]
        except BaseException:
            self.stop()
            process.wait()
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode == 0:
            return None
        return (text if log is None else log.read_text(encoding="utf-8", errors="replace"))[-2000:]

    def stop(self) -> None:
        """Ask the running commands to end, and start no more; does not wait."""
        with self._lock:
            running = [] if self._stopped else list(self._running)
            self._stopped = True
        for process in running:
            process.send_signal(signal.SIGTERM)
