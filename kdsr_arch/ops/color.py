"""RGB and BT.601 YCbCr in studio range, as MATLAB's ``rgb2ycbcr`` and the super-resolution benchmarks use them.

Y lies in [16, 235] / 255 and Cb, Cr in [16, 240] / 255 for RGB in [0, 1]. (OpenCV's conversion is full-range and gives
PSNR values more than 1 dB away.) Source: ITU-R BT.601.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kdsr_arch.errors import UserError

_RGB_TO_YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))  # of 255
_ZERO = (16.0, 128.0, 128.0)  # Y, Cb, Cr of black, of 255
_YCBCR_TO_RGB = tuple(map(tuple, torch.linalg.inv(torch.tensor(_RGB_TO_YCBCR, dtype=torch.float64)).tolist()))


_Plane = TypeVar("_Plane", Tensor, np.ndarray)


def luma(channels: Sequence[_Plane]) -> _Plane:
    """Return luma of float32 planes R, G, B in [0, 1], arrays or tensors of any shape; the same values either way."""
    return _mix(channels, _RGB_TO_YCBCR[0]) / 255 + _ZERO[0] / 255


def rgb_to_y(x: Tensor) -> Tensor:
    """Map RGB (..., 3, H, W) in [0, 1] to luma (..., 1, H, W), not rounded; basicsr's ``test_y_channel``."""
    return luma(_channels(x)).unsqueeze(-3)


def y_to_gray(x: Tensor) -> Tensor:
    """Map luma in studio range to gray in [0, 1], as pictures are kept; not clipped."""
    return (x * 255 - _ZERO[0]) / sum(_RGB_TO_YCBCR[0])


def rgb_to_ycbcr(x: Tensor) -> Tensor:
    """Map RGB (..., 3, H, W) in [0, 1] to YCbCr (..., 3, H, W), not rounded."""
    channels = _channels(x)
    rows = zip(_RGB_TO_YCBCR, _ZERO, strict=True)
    return torch.stack([_mix(channels, weights) / 255 + zero / 255 for weights, zero in rows], -3)


def ycbcr_to_rgb(x: Tensor) -> Tensor:
    """Invert :func:`rgb_to_ycbcr`; not clipped."""
    above = [channel * 255 - zero for channel, zero in zip(_channels(x), _ZERO, strict=True)]
    return torch.stack([_mix(above, weights) for weights in _YCBCR_TO_RGB], -3)


def matched_colors(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Give both as luma (BT.601, [0, 1]) where one has a single channel and the other is RGB; else as they are."""
    if a.shape[-3] == b.shape[-3]:
        return a, b
    return tuple(rgb_to_y(x.float()) if x.shape[-3] == 3 else x for x in (a, b))  # type: ignore[return-value]


def _channels(x: Tensor) -> list[Tensor]:
    if x.dim() < 3 or x.shape[-3] != 3:
        raise UserError(f"color conversion needs images of shape (..., 3, H, W), got {tuple(x.shape)}")
    return list(x.unbind(-3))


def _mix(channels: Sequence[_Plane], weights: tuple[float, ...]) -> _Plane:
    # Not a matrix product: those are done in less precision under autocast and TF32.
    return channels[0] * weights[0] + channels[1] * weights[1] + channels[2] * weights[2]
