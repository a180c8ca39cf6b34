"""Losses between two lines of the log: their means, and the first one that is not finite.

Everything stays on the losses' device, so that a step on the GPU never waits for the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdsr_arch.errors import UserError

_NEVER = 2**62


class NonFiniteError(UserError):
    """A loss or gradient became NaN or infinite."""


@dataclass
class _Entry:
    total: Tensor
    first: Tensor  # iteration of the first non-finite value of each name
    count: int = 0


class Tally:
    """Collects named scalars.

    Args:
        device: where they are.
        period: check for non-finite values every so many additions; 0 chooses 1 on the CPU, where looking is free,
            and 16 elsewhere.
    """

    def __init__(self, device: torch.device, period: int = 0) -> None:
        self.period = period or (1 if device.type == "cpu" else 16)
        self.device = device
        self._entries: dict[tuple[str, ...], _Entry] = {}
        self._added = 0

    def add(self, values: Mapping[str, Tensor], iteration: int) -> None:
        """Take in the scalars of one iteration.

        Raises:
            NonFiniteError: one of them, or (on the GPU) one of the last `period`, is NaN or infinite.
        """
        if not values:
            return
        names = tuple(values)
        held = torch.stack([v.detach().float() for v in values.values()])
        if names not in self._entries:
            self._entries[names] = _Entry(torch.zeros_like(held), torch.full_like(held, _NEVER, dtype=torch.int64))
        entry = self._entries[names]
        entry.total += held
        entry.first = torch.where(torch.isfinite(held), entry.first, entry.first.clamp(max=iteration))
        entry.count += 1
        self._added += 1
        if self._added % self.period == 0:
            self.check()

    def check(self) -> None:
        """Look whether anything was not finite.

        Raises:
            NonFiniteError: naming all that were at the first such iteration.
        """
        when = min((int(e.first.min()) for e in self._entries.values()), default=_NEVER)
        if when == _NEVER:
            return
        firsts = [(n, it) for names, e in self._entries.items() for n, it in zip(names, e.first.tolist(), strict=True)]
        culprits = ", ".join(name for name, it in firsts if it == when)
        raise NonFiniteError(f"iteration {when}: {culprits} became NaN or infinite")

    def means(self) -> dict[str, float]:
        """The mean of each name since the last call, which starts anew."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, entry in self._entries.items():
            for name, value in zip(names, entry.total.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + entry.count
        self._entries = {}
        return {name: sums[name] / counts[name] for name in sums}

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
            total = held["total"].to(self.device)
            self._entries[tuple(held["names"])] = _Entry(
                total, torch.full_like(total, _NEVER, dtype=torch.int64), held["count"]
            )
