"""Exponential moving average of a network's weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class ExponentialAverage:
    """A copy of `net` that follows it: ema = decay * ema + (1 - decay) * net after each step.

    Parameters are averaged; buffers (batch-normalisation statistics, counters) are copied, being averages already: a
    copy without them would be tested with the statistics of the first iteration.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.net = deepcopy(net).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Follow `net` by one step."""
        averaged: list[Tensor] = list(self.net.parameters())
        current: list[Tensor] = list(net.parameters())
        if averaged:
            torch._foreach_mul_(averaged, self.decay)
            torch._foreach_add_(averaged, current, alpha=1 - self.decay)
        for mine, theirs in zip(self.net.buffers(), net.buffers(), strict=True):
            mine.copy_(theirs)

    @torch.no_grad()
    def copy_from(self, net: nn.Module) -> None:
        """Become equal to `net` (after its weights were loaded or broadcast)."""
        self.net.load_state_dict(net.state_dict())
