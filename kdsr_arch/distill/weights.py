"""The weight of a term: a constant, a schedule over iterations, or a balance against the pixel loss."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.errors import UserError, nearest

_KEYS = ("constant", "schedule", "balance", "window")


class TermWeight(nn.Module):
    """weight(iteration) = constant * schedule(iteration) * r * median of the last measured |g_pixel| / |g_term|.

    Factors that the option file does not name are 1. The measured ratios are part of the state dict, so that a resumed
    run goes on with the same weight; they live on the CPU, so that reading a weight never waits for a GPU.

    Args:
        constant: factor in front.
        schedule: ((iteration, weight), ...), linear between, constant beyond both ends; None for 1.
        balance: r: the term's gradient on the student's parameters is r times the pixel loss's; None for no balance.
        window: number of measurements whose median counts.
    """

    def __init__(
        self,
        constant: float = 1.0,
        schedule: Sequence[tuple[int, float]] | None = None,
        balance: float | None = None,
        window: int = 10,
    ) -> None:
        super().__init__()
        self.constant = constant
        self.schedule = schedule
        self.balance = balance
        self.ratios: deque[float] = deque(maxlen=window)

    def at(self, iteration: int) -> float:
        """The weight of this iteration; a balance that was never measured counts as 0."""
        weight = self.constant
        if self.schedule is not None:
            weight *= interpolate(self.schedule, iteration)
        if self.balance is not None:
            weight *= self.balance * (statistics.median(self.ratios) if self.ratios else 0.0)
        return weight

    def wants_measure(self) -> bool:
        """Whether a balance still waits for its first measurement."""
        return self.balance is not None and not self.ratios

    def ramps(self, iteration: int) -> bool:
        """Whether the schedule has not reached its last point."""
        return self.schedule is not None and iteration < self.schedule[-1][0]

    def record(self, pixel_norm: float, term_norm: float) -> None:
        """Notes one measurement: gradient norms on the student of the pixel loss and of the unweighted term.

        A term without gradient, or a non-finite norm, tells nothing and is passed over.
        """
        if self.balance is None or not (0 < term_norm < math.inf and 0 < pixel_norm < math.inf):
            return
        self.ratios.append(pixel_norm / term_norm)

    def get_extra_state(self) -> Tensor:
        """The latest ratios, float64, for the checkpoint."""
        return torch.tensor(list(self.ratios), dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the ratios of a checkpoint."""
        self.ratios = deque(state.tolist(), maxlen=self.ratios.maxlen)

    def describe(self) -> str:
        """For the table of the dry run: ``0.1``, ``schedule 0:0 1000:0.1``, ``balance 0.3 (window 10)``."""
        parts = [] if self.constant == 1 and (self.schedule or self.balance is not None) else [f"{self.constant:g}"]
        if self.schedule is not None:
            parts.append("schedule " + " ".join(f"{i}:{w:g}" for i, w in self.schedule))
        if self.balance is not None:
            parts.append(f"balance {self.balance:g} (window {self.ratios.maxlen})")
        return " x ".join(parts)


def interpolate(schedule: Sequence[tuple[int, float]], iteration: int) -> float:
    """Piecewise-linear value at ``iteration`` of sorted (iteration, value) points; constant beyond both ends."""
    if iteration <= schedule[0][0]:
        return schedule[0][1]
    for (start, low), (end, high) in zip(schedule, schedule[1:], strict=False):
        if iteration < end:
            return low + (high - low) * (iteration - start) / (end - start)
    return schedule[-1][1]


def parse_weight(spec: Any, where: str) -> TermWeight:
    """A TermWeight from ``loss_weight``: a number, or ``{schedule: [[iter, w], ...]}``, ``{balance: r, window: n}``.

    The two forms and ``constant`` may be joined in one mapping and are then multiplied: a balance that is ramped in.

    Raises:
        UserError: an unknown key, a negative or non-finite number, an empty or unsorted schedule.
    """
    if not isinstance(spec, dict):
        return TermWeight(_number(spec, f"{where}.loss_weight"))
    for key in spec:
        if key not in _KEYS:
            raise UserError(
                f"{where}.loss_weight: unknown key '{key}'{nearest(key, _KEYS)}: it takes a number, "
                "{schedule: [[iteration, weight], ...]} or {balance: ratio, window: n}"
            )
    if not set(spec) & {"constant", "schedule", "balance"}:
        raise UserError(f"{where}.loss_weight: give a number, a schedule or a balance")
    balance = _number(spec["balance"], f"{where}.loss_weight.balance") if "balance" in spec else None
    window = spec.get("window", 10)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise UserError(f"{where}.loss_weight.window must be a whole number above 0, got {window!r}")
    schedule = _points(spec["schedule"], f"{where}.loss_weight.schedule") if "schedule" in spec else None
    return TermWeight(_number(spec.get("constant", 1.0), f"{where}.loss_weight.constant"), schedule, balance, window)


def _points(points: Any, where: str) -> tuple[tuple[int, float], ...]:
    try:
        pairs = tuple((int(i), _number(w, where)) for i, w in points)
    except (TypeError, ValueError):
        raise UserError(f"{where} must be a list of [iteration, weight] pairs, got {points!r}") from None
    if not pairs or any(a[0] >= b[0] for a, b in zip(pairs, pairs[1:], strict=False)):
        raise UserError(f"{where} must be [iteration, weight] pairs of rising iterations, got {points!r}")
    return pairs


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise UserError(f"{where} must be a number of at least 0, got {value!r}")
    return float(value)
