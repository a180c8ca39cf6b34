"""SIGINT and SIGTERM: finish the step, save, leave; a second signal leaves at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Raised inside `StopRequest.interruptible` by a signal."""


class StopRequest:
    """Remembers the first signal for the loop to see; exits with 128 + its number (130, 143) on the second.

    Data-loading workers inherit the handlers by fork. There, SIGINT does nothing (the terminal sends it to all; the
    main process still needs its workers for the step) and SIGTERM, by which the main process ends them, ends them.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._owner = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}
        self._raise = False

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
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
        """Work that loses nothing when cut short (validation): a signal raises `Interrupted` here at once."""
        self._raise = True
        try:
            yield
        finally:
            self._raise = False

    @property
    def exit_code(self) -> int:
        """0, or 128 + the number of the signal that asked to stop."""
        return 128 + self.signum if self.signum else 0
