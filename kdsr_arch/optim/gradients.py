"""Norm and clipping of gradients, without waiting for the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """L2 norm of all gradients together, a scalar tensor on their device."""
    if not gradients:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))


def clip_gradients(gradients: Sequence[Tensor], norm: Tensor, opt: float | Mapping[str, Any] | None) -> None:
    """Scale the gradients down so that their norm is at most the wanted one.

    Args:
        norm: their norm now.
        opt: the largest norm allowed, as a number or under `max_norm`; None or 0 leaves them alone.
    """
    limit = opt.get("max_norm") if isinstance(opt, Mapping) else opt
    if limit and gradients:
        torch._foreach_mul_(list(gradients), (limit / (norm + 1e-6)).clamp(max=1.0))
