"""Exact positions for ``grid_sample``.

``grid_sample`` takes positions as fractions of the image side. For a side that is a power of two the conversion there
and back is exact, so a sample at a whole pixel stays there: zero flow is the identity, and offsets of zero, all of
them in a freshly initialised network, have the gradient of the definition. Images are padded to such sides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["pad_to_power_of_two", "sample_bilinear", "to_fraction", "to_fraction_within_pixel"]


def pad_to_power_of_two(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H', W') with zeros below and to the right."""
    h, w = x.shape[-2:]
    return F.pad(x, (0, _power_of_two(w) - w, 0, _power_of_two(h) - h))


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def to_fraction(position: Tensor, side: int) -> Tensor:
    """Pixels -> fractions in [-1, 1] of a side that is a power of two. Differentiable."""
    return position * (2 / side) + (1 / side - 1)


def to_fraction_within_pixel(position: Tensor, side: int) -> Tensor:
    """:func:`to_fraction` in place and without gradient, for any position: none crosses a pixel by rounding.

    Positions are rounded here to the resolution that fractions have, so that all later arithmetic is exact, but never
    up to the next pixel: the gradient of a position is that of the pixels it lies between.
    """
    steps = 2 / (side * torch.finfo(position.dtype).eps)  # per pixel
    pixel = position.floor()
    between = position.sub_(pixel).mul_(steps).round_().clamp_(max=steps - 1)
    return between.mul_(2 / (side * steps)).add_(pixel, alpha=2 / side).add_(1 / side - 1)


def sample_bilinear(image: Tensor, grid: Tensor) -> Tensor:
    """(B, C, H', W') sampled at (B, Ho, Wo, 2) fractions (x, y); pixels outside are 0."""
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
