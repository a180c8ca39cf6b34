"""How many frames a second, how many are left, until when."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TextIO

_EVERY = {True: 0.5, False: 15.0}  # seconds between lines: a terminal shows one that changes, a log gets few


class Progress:
    """Counts frames and tells of them.

    Args:
        total: how many there will be; None where that is not known.
        unit: what is counted.
        done: those of an earlier run.
        out: where to write; the error stream by default, so that piped output stays clean.
    """

    def __init__(self, total: int | None, unit: str = "frames", done: int = 0, out: TextIO | None = None) -> None:
        self.total, self.unit, self.count, self._before = total, unit, done, done
        self._out = out or sys.stderr
        self._live = self._out.isatty()
        self.began = self._told = time.perf_counter()

    @property
    def rate(self) -> float:
        """Per second, of this run."""
        return (self.count - self._before) / max(time.perf_counter() - self.began, 1e-9)

    def step(self, count: int = 1) -> None:
        """So many more are done."""
        self.count += count
        if time.perf_counter() - self._told >= _EVERY[self._live]:
            self._tell()

    def line(self) -> str:
        """The text shown."""
        if self.total is None:
            return f"{self.count} {self.unit}  {self.rate:.2f} {self.unit}/s"
        left = timedelta(seconds=round(max(self.total - self.count, 0) / max(self.rate, 1e-9)))
        share = 100 * self.count / max(self.total, 1)
        return f"{self.count}/{self.total} {self.unit} ({share:.0f} %)  {self.rate:.2f} {self.unit}/s  ETA {left}"

    def _tell(self) -> None:
        self._told = time.perf_counter()
        self._out.write(f"\r{self.line():<78}" if self._live else f"{self.line()}\n")
        self._out.flush()

    def close(self) -> None:
        """The last word."""
        self._tell()
        if self._live:
            self._out.write("\n")
