"""What is measured between two lines of the log: means of the losses, NaN and infinity among them, rate and ETA."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsr_arch.device import LateFlag
from kdsr_arch.errors import UserError
from kdsr_arch.log import progress_bar
from kdsr_arch.parallel import distributed

_NEVER = 2**62


class NonFiniteError(UserError):
    """A loss or gradient became NaN or infinite."""


def stop_if_nonfinite(iteration: int, names: Sequence[str], batch: Any) -> None:
    """Stop all processes with the same sentence where one of them met NaN or infinity; all must call it together.

    Args:
        iteration: the first with NaN or infinity on this process.
        names: the losses, or `grad_norm`, that were not finite; empty where all is well.
        batch: the micro-batch of that iteration, to name its tensors that hold NaN or infinity; empty where it is gone.

    Raises:
        NonFiniteError: names the losses and the iteration, of the first process that has some of its own.
    """
    if not distributed.agree_max(int(bool(names))):
        return
    losses = [name for name in names if name != "grad_norm"]
    named = dict(batch) if isinstance(batch, Mapping) else {}
    named |= {f"teacher.{name}": maps for name, maps in (named.get("teacher") or {}).items()}
    keys = [k for k, v in named.items() if isinstance(v, Tensor) and not bool(torch.isfinite(v).all())]
    reports = distributed.gather((not names, iteration, not losses, losses or list(names), keys))
    rank = min(range(len(reports)), key=lambda r: (reports[r][:3], r))
    _, iteration, _, losses, keys = reports[rank]
    where = f" (process {rank})" if len(reports) > 1 else ""
    advice = (
        f"the batch holds NaN or infinity in {', '.join(keys)}"
        if keys
        else "lower the learning rate or the term's weight"
    )
    raise NonFiniteError(f"iteration {iteration}: {', '.join(losses)} became NaN or infinite{where}; {advice}")


@dataclass
class _Entry:
    total: Tensor  # float64, in which sums of a few float32 values are exact in any order
    first: Tensor  # iteration of the first non-finite value of each name
    count: int = 0


class Meter:
    """Collects named scalars on their device, so that a step on a GPU never waits for the CPU.

    Args:
        device: where they are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._entries: dict[tuple[str, ...], _Entry] = {}
        self._bad = LateFlag()

    def add(self, values: Mapping[str, Tensor], iteration: int) -> None:
        """Take in the scalars of one iteration."""
        if not values:
            return
        names = tuple(values)
        new = torch.stack([v.detach().float() for v in values.values()])
        if names not in self._entries:
            start = torch.zeros_like(new, dtype=torch.float64)
            self._entries[names] = _Entry(start, torch.full_like(new, _NEVER, dtype=torch.int64))
        entry = self._entries[names]
        entry.total += new
        entry.first = torch.where(torch.isfinite(new), entry.first, entry.first.clamp(max=iteration))
        entry.count += 1

    def suspects(self) -> bool:
        """Ask the device whether all was finite so far, and tell what it answered to the call before."""
        before = self._bad.read()
        if self._entries:
            self._bad.ask(torch.stack([(entry.first < _NEVER).any() for entry in self._entries.values()]).any())
        return before

    def first_bad(self) -> tuple[int, list[str]]:
        """Find the first iteration with NaN or infinity since the last line of the log; waits for the device.

        Returns:
            The iteration, and the names of what was not finite; no names where all is well.
        """
        firsts = [(n, it) for names, e in self._entries.items() for n, it in zip(names, e.first.tolist(), strict=True)]
        when = min((it for _, it in firsts), default=_NEVER)
        return when, sorted({name for name, it in firsts if it == when < _NEVER})

    def means(self) -> dict[str, float]:
        """Return the mean of each name since the last call, over all processes, and start anew."""
        self.share()
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, entry in self._entries.items():
            for name, value in zip(names, entry.total.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + entry.count
        self._entries = {}
        return {name: float(np.float32(sums[name] / counts[name])) for name in sums}

    def share(self) -> None:
        """Give every process the mean of all, which leaves `means` as it was: one state then serves them all."""
        distributed.average(entry.total for entry in self._entries.values())

    def state(self) -> list[dict[str, Any]]:
        """Return what was collected since the last line of the log, in plain values and tensors."""
        return [
            {"names": list(n), "total": e.total.to("cpu", copy=True), "count": e.count}
            for n, e in self._entries.items()
        ]

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Go on collecting from `state`."""
        self._entries = {}
        for saved in state:
            total = saved["total"].to(self.device, torch.float64)
            never = torch.full_like(total, _NEVER, dtype=torch.int64)
            self._entries[tuple(saved["names"])] = _Entry(total, never, saved["count"])


class Progress:
    """A progress bar (`bar`) with rate and ETA on a terminal, and the text of the log lines.

    Args:
        total: iterations in all.
        start: iterations done already.
    """

    def __init__(self, total: int, start: int = 0) -> None:
        self.total = total
        self._since, self._at = time.perf_counter(), start
        shown = distributed.is_main() and sys.stderr.isatty()
        self.bar = progress_bar("", total, "it", start, disable=not shown)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for a validation or a save: the time inside does not count towards the rate."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def line(self, iteration: int, rates: Sequence[float], log: Mapping[str, float], waited: float = 0.0) -> str:
        """Write the log line of an iteration: learning rates, rate, share of the time that data took, ETA, losses.

        Args:
            rates: learning rates.
            log: losses and other figures by name.
            waited: seconds of waiting for data since the last line.
        """
        now = time.perf_counter()
        seconds, steps = now - self._since, iteration - self._at
        rate, waiting = steps / max(seconds, 1e-9), waited / max(seconds, 1e-9)
        self._since, self._at = now, iteration
        eta = timedelta(seconds=int((self.total - iteration) / max(rate, 1e-9)))
        shown = "  ".join(f"{name} {value:.4g}" for name, value in log.items())
        self.bar.set_postfix_str(shown)
        lr = ", ".join(f"{value:.3g}" for value in dict.fromkeys(rates))
        return f"[{iteration:,}/{self.total:,}  lr {lr}  {rate:.3g} it/s  data {waiting:.0%}  eta {eta}]  {shown}"
