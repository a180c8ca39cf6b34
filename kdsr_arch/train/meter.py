"""Losses between two lines of the log: their means, and the first ones that are not finite.

Everything stays on the losses' device, so that a step on the GPU never waits for the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.parallel import distributed

_NEVER = 2**62


class NonFiniteError(UserError):
    """A loss or gradient became NaN or infinite."""


@dataclass
class _Entry:
    total: Tensor  # float64, in which sums of a few float32 values are exact in any order
    first: Tensor  # iteration of the first non-finite value of each name
    count: int = 0


class Tally:
    """Collects named scalars.

    Args:
        device: where they are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._entries: dict[tuple[str, ...], _Entry] = {}

    def add(self, values: Mapping[str, Tensor], iteration: int) -> None:
        """Take in the scalars of one iteration; names that begin with '_' are watched, but have no mean."""
        if not values:
            return
        names = tuple(values)
        held = torch.stack([v.detach().float() for v in values.values()])
        if names not in self._entries:
            start = torch.zeros_like(held, dtype=torch.float64)
            self._entries[names] = _Entry(start, torch.full_like(held, _NEVER, dtype=torch.int64))
        entry = self._entries[names]
        entry.total += held
        entry.first = torch.where(torch.isfinite(held), entry.first, entry.first.clamp(max=iteration))
        entry.count += 1

    def first_bad(self) -> tuple[int, list[str]] | None:
        """The first iteration with NaN or infinity since the last line of the log, and the names of what was; None
        where all is well. Waits for the device.
        """
        firsts = [(n, it) for names, e in self._entries.items() for n, it in zip(names, e.first.tolist(), strict=True)]
        when = min((it for _, it in firsts), default=_NEVER)
        return None if when == _NEVER else (when, [name for name, it in firsts if it == when])

    def means(self) -> dict[str, float]:
        """The mean of each name since the last call and over the processes, which starts anew."""
        self.share()
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, entry in self._entries.items():
            for name, value in zip(names, entry.total.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + entry.count
        self._entries = {}
        shown = [name for name in sums if not name.startswith("_")]
        return {name: float(np.float32(sums[name] / counts[name])) for name in shown}

    def share(self) -> None:
        """Give every process the mean of all, which leaves `means` as it was: one state then serves them all."""
        distributed.average(entry.total for entry in self._entries.values())

    def state(self) -> list[dict[str, Any]]:
        """What was collected since the last line of the log, in plain values and tensors."""
        return [
            {"names": list(n), "total": e.total.to("cpu", copy=True), "count": e.count}
            for n, e in self._entries.items()
        ]

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Go on collecting from `state`."""
        self._entries = {}
        for held in state:
            total = held["total"].to(self.device, torch.float64)
            self._entries[tuple(held["names"])] = _Entry(
                total, torch.full_like(total, _NEVER, dtype=torch.int64), held["count"]
            )
