"""Forms of the operations for graphs that leave PyTorch: no step may depend on a number taken from a tensor's size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdsr_arch.ops.kernels import keys_kernel

__all__ = ["bicubic_by_phases", "export_form", "exporting", "warp_by_gathering"]

_active = False


def exporting() -> bool:
    """Whether a network is being exported."""
    return _active


@contextmanager
def export_form() -> Iterator[None]:
    """Inside, enlarging and warping take the forms of this module, equal to the usual ones to rounding."""
    global _active
    before, _active = _active, True
    try:
        yield
    finally:
        _active = before


@lru_cache(maxsize=16)
def _phase_kernel(factor: int) -> np.ndarray:
    """(factor * factor, 1, 5, 5): the weights of inputs (p - 2, q - 2) to (p + 2, q + 2) in each phase of the output.

    An array, since a tensor made while a graph is traced is part of that graph and must not be kept.
    """
    centre = (np.arange(factor) + 0.5) / factor - 0.5
    row = keys_kernel(centre[:, None] - np.arange(-2, 3))
    return np.einsum("pi,qj->pqij", row, row).reshape(factor * factor, 1, 5, 5)


def bicubic_by_phases(x: Tensor, factor: int) -> Tensor:
    """MATLAB's bicubic enlargement (symmetric border) as a convolution and a pixel-shuffle: (..., h, w), any h, w >= 2.

    Sides are mirrored by slices, so that they stay symbolic in a graph.
    """
    kernel = torch.from_numpy(_phase_kernel(factor)).to(x)
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = torch.cat([flat[..., 1:2, :], flat[..., :1, :], flat, flat[..., -1:, :], flat[..., -2:-1, :]], -2)
    flat = torch.cat([flat[..., 1:2], flat[..., :1], flat, flat[..., -1:], flat[..., -2:-1]], -1)
    y = F.pixel_shuffle(F.conv2d(flat, kernel), factor)
    return y.reshape(*x.shape[:-2], y.shape[-2], y.shape[-1])


def warp_by_gathering(x: Tensor, flow: Tensor, border: str) -> Tensor:
    """Bilinear backward warping by explicit reads of the four neighbours; arguments as of ``backward_warp``.

    Positions are float32 at least, in a graph of half precision too.
    """
    dtype, x, flow = x.dtype, *((x.float(), flow.float()) if x.dtype == torch.float16 else (x, flow))
    pad = 2 if border == "zeros" else 0
    image = F.pad(x, (pad,) * 4) if pad else x
    height, width = image.shape[-2:]
    column = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype) + flow[:, 0] + pad
    row = torch.arange(x.shape[-2], device=x.device, dtype=x.dtype).view(-1, 1) + flow[:, 1] + pad
    # clamp(max=...) takes no symbolic side in every exporter; minimum with a tensor does
    column = torch.minimum(column.clamp(min=0), torch.ones_like(column) * (width - 1))
    row = torch.minimum(row.clamp(min=0), torch.ones_like(row) * (height - 1))
    left, top = column.floor(), row.floor()
    right, bottom = torch.minimum(left + 1, torch.ones_like(left) * (width - 1)), torch.minimum(
        top + 1, torch.ones_like(top) * (height - 1)
    )
    fx, fy = (column - left).unsqueeze(1), (row - top).unsqueeze(1)

    def read(rows: Tensor, columns: Tensor) -> Tensor:
        index = (rows.long() * width + columns.long()).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
        return image.flatten(2).gather(2, index).reshape(x.shape)

    upper = read(top, left) * (1 - fx) + read(top, right) * fx
    lower = read(bottom, left) * (1 - fx) + read(bottom, right) * fx
    return (upper * (1 - fy) + lower * fy).to(dtype)
