"""Progress bar of a training, and the text of its log lines: rate, share of waiting, ETA."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from kdsr_arch.log import progress_bar
from kdsr_arch.parallel import distributed


class Progress:
    """A bar on a terminal, and the text of the log lines.

    Args:
        total: iterations in all.
        start: iterations done already.
    """

    def __init__(self, total: int, start: int = 0) -> None:
        self.total = total
        self._since, self._at = time.perf_counter(), start
        self._waited = 0.0
        shown = distributed.is_main() and sys.stderr.isatty()
        self._bar = progress_bar("", total, "it", start, disable=not shown)

    def step(self, waited: float) -> None:
        """One iteration is done, of which `waited` seconds went by waiting for data."""
        self._waited += waited
        self._bar.update()

    def pause(self) -> float:
        """Begin something that is no training (validation, saving); give what this returns to `go_on`."""
        return time.perf_counter()

    def go_on(self, paused: float) -> None:
        """End it: the time since does not count towards the rate."""
        self._since += time.perf_counter() - paused

    def line(self, iteration: int, rates: Sequence[float], log: Mapping[str, float]) -> str:
        """The log line of `iteration`; rate and share of waiting are those since the last line."""
        now = time.perf_counter()
        seconds, steps = now - self._since, iteration - self._at
        rate, waited = steps / max(seconds, 1e-9), self._waited / max(seconds, 1e-9)
        self._since, self._at, self._waited = now, iteration, 0.0
        eta = timedelta(seconds=int((self.total - iteration) / max(rate, 1e-9)))
        shown = "  ".join(f"{name} {value:.4g}" for name, value in log.items())
        self._bar.set_postfix_str(shown)
        lr = ", ".join(f"{value:.3g}" for value in dict.fromkeys(rates))
        return f"[{iteration:,}/{self.total:,}  lr {lr}  {rate:.3g} it/s  data {waited:.0%}  eta {eta}]  {shown}"

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()
