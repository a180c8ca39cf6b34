"""What the distillation losses share: checks on what a tap recorded, size matching, safe normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdsr_arch.errors import UserError, nearest

CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss}


def choose(owner: str, key: str, value: str, known: Sequence[str]) -> str:
    """``value`` if it is one of ``known``, else a UserError that names the loss and its option."""
    if value not in known:
        raise UserError(f"{owner}: {key} '{value}' is none of {', '.join(known)}{nearest(value, known)}")
    return value


def require_map(owner: str, x: Any) -> Tensor:
    """A feature map (N, C, H, W), else a UserError that says what the tap recorded instead."""
    if not isinstance(x, Tensor):
        raise UserError(f"{owner} needs one feature map from each tap, but a tap recorded {type(x).__name__}")
    if x.dim() != 4:
        raise UserError(f"{owner} needs maps (N, C, H, W), but a tap gave shape {tuple(x.shape)}: tap another layer")
    return x


def as_maps(owner: str, x: Any) -> list[Tensor]:
    """The feature maps of one side of a term that sees all its layers at once."""
    return [require_map(owner, m) for m in (x if isinstance(x, (list, tuple)) else [x])]


def pool_larger(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and width, by adaptive average pooling of whichever is larger there."""
    if a.shape[-2:] == b.shape[-2:]:
        return a, b
    size = (min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1]))
    return F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(b, size)


def unit(x: Tensor, dim: int | tuple[int, ...], eps: float = 0.0) -> Tensor:
    """``x / (|x|_2 + eps)`` along ``dim``; exactly zero vectors stay zero and get a zero gradient.

    The plain formula's gradient there is NaN (the root at 0) or 1/eps; neither is of use to an optimizer.
    """
    squares = x.square().sum(dim, keepdim=True)  # ten times faster than vector_norm over an outer dimension
    zero = squares == 0
    return (x / (squares.masked_fill(zero, 1.0).sqrt() + eps)).masked_fill(zero, 0.0)
