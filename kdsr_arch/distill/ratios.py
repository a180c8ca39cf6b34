"""How strongly each term pulls on the student, compared with the pixel loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from kdsr_arch.parallel import distributed

log = logging.getLogger(__name__)

INERT = 1e-3
"""Below this part of the pixel loss's gradient a term changes nothing that could be measured."""
_SCALE = 1024.0  # keeps small gradients of a float16 backward pass from vanishing; a power of two is exact elsewhere


def gradient_norms(losses: Mapping[str, Tensor], student: nn.Module) -> dict[str, float]:
    """Return the L2 norm of each loss's gradient on the student, over the batches of all processes.

    The graph is kept, ``.grad`` is not touched. A loss without a graph to the student has norm 0.
    """
    params = [p for p in student.parameters() if p.requires_grad]
    norms = {name: _norm(loss, params) for name, loss in losses.items()}
    if not norms:
        return {}
    values = torch.stack(list(norms.values())).double().tolist()  # one wait for the device, not one for each
    return dict(zip(norms, values, strict=True))


def _norm(loss: Tensor, params: list[nn.Parameter]) -> Tensor:
    zero = loss.detach().new_zeros(())
    if not params or not loss.requires_grad:
        return zero
    scaled = torch.autograd.grad(loss * _SCALE, params, retain_graph=True, allow_unused=True)
    gradients = [g for g in scaled if g is not None]
    distributed.average(gradients)  # before the norm: the mean of norms would depend on the number of processes
    squares = [g.float().square().sum() for g in gradients]
    return torch.stack(squares).sum().sqrt() / _SCALE if squares else zero


class InertWatch:
    """Warns once for each term whose weighted gradient has fallen under ``INERT`` of the pixel loss's."""

    def __init__(self) -> None:
        self.warned: set[str] = set()

    def look(self, ratios: Mapping[str, float], ramping: Iterable[str], iteration: int) -> None:
        """Look at measured ratios, but for the terms whose weight is still being ramped."""
        for name, ratio in ratios.items():
            if name in self.warned or name in ramping or not ratio < INERT:
                continue
            self.warned.add(name)
            log.warning(
                "term '%s' is inert at iteration %d: its gradient on the student is %.1e of the pixel loss's. "
                "Raise its loss_weight, or use {balance: r}",
                name,
                iteration,
                ratio,
            )


def ratio(weight: float, term: float, pixel: float) -> float:
    """Return a term's weighted gradient over that of the pixel loss; NaN where the pixel loss has none."""
    return weight * term / pixel if pixel > 0 else math.nan
