"""How far a long pass over frames, images or clips is: count, rate and time left, on standard error."""

from __future__ import annotations

import sys
import time
from typing import TextIO


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _speed(rate: float) -> str:
    return f"{rate:.1f} a second" if rate >= 0.1 or rate <= 0 else f"{_span(1 / rate)} each"


class Progress:
    """Tells ``done of total, rate, time left``: in place on a terminal, as a line now and then elsewhere.

    Args:
        what: stands before the numbers.
        total: things in all; None when that is not known beforehand.
        done: things done in an earlier run, which the rate leaves out.
        unit: what the things are, in the plural.
    """

    def __init__(
        self, what: str, total: int | None = None, done: int = 0, stream: TextIO | None = None, unit: str = "frames"
    ) -> None:
        self._what, self._total, self._first, self._done, self._unit = what, total, done, done, unit
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._period = 0.2 if self._terminal else 5.0
        self._begin = self._told = time.monotonic()

    def add(self, count: int = 1) -> None:
        """Counts, and tells if the last telling is some time ago."""
        self._done += count
        now = time.monotonic()
        if now - self._told >= self._period:
            self._told = now
            self._write(self.text(now - self._begin))

    def text(self, elapsed: float) -> str:
        """The line after ``elapsed`` seconds."""
        rate = (self._done - self._first) / max(elapsed, 1e-6)
        line = f"{self._what}: {self._done:,}" + ("" if self._total is None else f" of {self._total:,}")
        line += f" {self._unit}, {_speed(rate)}"
        if self._total is not None and rate > 0:
            line += f", {_span((self._total - self._done) / rate)} left"
        return line

    def close(self) -> None:
        """The last line: what was done, and how fast."""
        elapsed = time.monotonic() - self._begin
        rate = (self._done - self._first) / max(elapsed, 1e-6)
        self._write(f"{self._what}: {self._done:,} {self._unit} in {_span(elapsed)}, {_speed(rate)}", last=True)

    def _write(self, line: str, last: bool = False) -> None:
        if self._terminal:
            self._stream.write(f"\r\x1b[K{line}" + ("\n" if last else ""))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
