"""What SIGINT, SIGTERM and SIGHUP do, in a command, a training, their worker processes; and output without a reader."""

from __future__ import annotations

import io
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from kdsr_arch.errors import FULL

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TO_ALL = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # not on Windows


class _Output(io.FileIO):
    """A standard stream that outlives its reader: what comes after goes nowhere.

    Attributes:
        holds_results: whether a full disk behind it is an error; else what finds no room there is dropped.
    """

    holds_results = False

    def write(self, data: Any) -> int:
        """Write bytes; a pipe without a reader (`| head`) or a closed terminal is replaced by the null device."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in FULL or stat.S_ISREG(os.fstat(self.fileno()).st_mode):
                if self.holds_results:
                    raise
                return len(data)
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
            return len(data)


def outlive_readers(results: bool = True) -> None:
    """Let a command finish its work when whoever reads its output has left, or a file's name is no text to print.

    Standard streams that are closed lead to the null device: no file that is opened later takes their place.

    Args:
        results: whether standard output holds what the command is called for: then a full disk behind it is an error.
    """
    _open_closed_streams()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        raw = getattr(getattr(stream, "buffer", None), "raw", getattr(stream, "buffer", None))
        if stream is getattr(sys, f"__{name}__") and type(raw) is io.FileIO:  # no test's, no Windows console's
            output: Any = _Output(raw.fileno(), "wb", closefd=False)
            output.holds_results = results and name == "stdout"
            buffer = output if stream.write_through else io.BufferedWriter(output)
            form = {"encoding": stream.encoding, "errors": "backslashreplace", "line_buffering": stream.line_buffering}
            setattr(sys, name, io.TextIOWrapper(buffer, **form, write_through=stream.write_through))


def _open_closed_streams() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
        if number and getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for as long as the command runs)


class Ended(SystemExit):
    """A signal has ended the command; `code` is the exit code, 128 + the signal's number."""


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """End a command on SIGTERM and SIGHUP as on Ctrl-C: by an exception, so that it clears away what it was writing.

    A training has handlers of its own (`StopRequest`); what ignores these signals (nohup) goes on doing so.

    Raises:
        Ended: a signal came.
    """
    owner = os.getpid()

    def leave(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker has nothing to clear
            os._exit(128 + signum)
        raise Ended(128 + signum)

    ending = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    caught = [number for number in ending if _in_main_thread() and signal.getsignal(number) == signal.SIG_DFL]
    for number in caught:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def become_worker(needed_to_save: bool = False) -> None:
    """Call in a worker process: it has one thread and ignores what reaches the whole process group, SIGINT and SIGHUP.

    Parallelism comes from the workers, and the parent answers the signals.

    Args:
        needed_to_save: the worker ignores SIGTERM as well, since a training needs it until it has saved; its parent
            ends it by SIGKILL.
    """
    import cv2  # a command without workers needs neither
    import torch

    ignored = ("SIGINT", "SIGHUP", *(["SIGTERM"] if needed_to_save else []))
    for number in (getattr(signal, name) for name in ignored if hasattr(signal, name)):  # Windows has no SIGHUP
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TO_ALL)  # see held_back
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals wait for the end of the block; in workers that are started in it, for `become_worker`.

    One that reached the whole process group would else end a worker that does not ignore it yet.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()  # Python allows handlers nowhere else


class Interrupted(Exception):
    """Raised inside `StopRequest.interruptible` by a signal."""


class StopRequest:
    """Remember the first signal for the training loop to see; exit with 128 + its number (130, 143) on the second.

    Data-loading workers inherit the handlers by fork. There, SIGINT does nothing (the terminal sends it to all; the
    main process still needs its workers for the step) and SIGTERM, by which the main process ends them, ends them.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._owner = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}
        self._raise = False

    def __enter__(self) -> StopRequest:
        if _in_main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        if self.signum:
            os._exit(128 + signum)
        self.signum = signum
        note = f"\n{signal.Signals(signum).name}: finishing this step, saving, leaving (once more: leave at once)\n"
        with suppress(OSError):  # whoever was listening may be gone; the state is saved all the same
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, note.encode())
        if self._raise:
            raise Interrupted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal raise `Interrupted` at once inside: for work that loses nothing when cut short (validation)."""
        self._raise = True
        try:
            yield
        finally:
            self._raise = False

    @property
    def exit_code(self) -> int:
        """0, or 128 + the number of the signal that asked to stop."""
        return 128 + self.signum if self.signum else 0
