"""Enlarging as TensorFlow 1 does it, from the pixel's corner: what video networks trained on BD data add to.

Output pixel i looks at position i * length / side, without the shift by half a pixel. LR pixel i of BD data lies at HR
pixel scale * i, so that there this resize is the one in place and MATLAB's is off by 1.5 HR pixels at x4; on BI data it
is the other way round.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdsr_arch.errors import one_of

_A = -0.75  # of Keys' cubic kernel; MATLAB's is -0.5
_TAPS = {"bicubic": range(-1, 3), "bilinear": range(2)}


def resize_legacy(x: Tensor, height: int, width: int, kind: str = "bicubic") -> Tensor:
    """Enlarge (..., h, w) to (..., height, width), any sizes; beyond the border the nearest pixel. Differentiable.

    Args:
        kind: 'bicubic' (a = -0.75) or 'bilinear'.
    """
    one_of("resize_legacy", "kind", kind, _TAPS)
    return _along(_along(x, -2, height, kind), -1, width, kind)


def _along(x: Tensor, axis: int, side: int, kind: str) -> Tensor:
    length = x.shape[axis]
    place = torch.arange(side, device=x.device) * length
    first = place // side
    fraction = (place - first * side).to(x.dtype) / side  # not a remainder, which ONNX has not for symbolic sides
    last = torch.ones_like(first) * (length - 1)  # clamp(max=...) takes no symbolic side in every exporter
    parts = []
    for tap in _TAPS[kind]:
        index, weight = torch.minimum((first + tap).clamp(min=0), last), _weight((fraction - tap).abs(), kind)
        parts.append(x.index_select(axis, index) * (weight.unsqueeze(-1) if axis == -2 else weight))
    return torch.stack(parts).sum(0)


def _weight(distance: Tensor, kind: str) -> Tensor:
    """Evaluate the kernel at distances of at most 2 (bilinear: 1) pixels."""
    if kind == "bilinear":
        return 1 - distance
    near = ((_A + 2) * distance - (_A + 3)) * distance.square() + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return torch.where(distance <= 1, near, far)
