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
        # kept from step to step: the walk through the modules was up to a tenth of a tiny network's step
        self._modules, self._followed = list(self.net.modules()), (net, list(net.modules()))

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Follow `net` by one step."""
        if self._followed[0] is not net:
            self._followed = (net, list(net.modules()))
        both = (self._modules, self._followed[1])
        averaged, current = (_tensors(modules, "_parameters") for modules in both)
        if averaged:
            torch._foreach_mul_(averaged, self.decay)
            torch._foreach_add_(averaged, current, alpha=1 - self.decay)
        for mine, theirs in zip(*(_tensors(modules, "_buffers") for modules in both), strict=True):
            mine.copy_(theirs)


def _tensors(modules: list[nn.Module], kind: str) -> list[Tensor]:
    """The parameters or buffers that the modules have now, each once, in the order of `nn.Module.parameters`."""
    held = (tensor for module in modules for tensor in getattr(module, kind).values() if tensor is not None)
    return list({id(tensor): tensor for tensor in held}.values())
