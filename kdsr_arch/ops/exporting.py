"""Forms of the operations for graphs that leave PyTorch: no step may depend on a number taken from a tensor's size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdsr_arch.ops.banded import keys_kernel

_active = False


def exporting() -> bool:
    """Tell whether a network is being exported."""
    return _active


@contextmanager
def export_form() -> Iterator[None]:
    """Let enlarging and warping take the forms of this module, equal to the usual ones to rounding."""
    global _active
    before, _active = _active, True
    try:
        yield
    finally:
        _active = before


@lru_cache(maxsize=16)
def _phase_kernel(factor: int) -> np.ndarray:
    """Weigh inputs (p - 2, q - 2) to (p + 2, q + 2) in each phase of the output: (factor * factor, 1, 5, 5).

    An array, since a tensor made while a graph is traced is part of that graph and must not be kept.
    """
    center = (np.arange(factor) + 0.5) / factor - 0.5
    row = keys_kernel(center[:, None] - np.arange(-2, 3))
    return np.einsum("pi,qj->pqij", row, row).reshape(factor * factor, 1, 5, 5)


def bicubic_by_phases(x: Tensor, factor: int) -> Tensor:
    """Enlarge (..., h, w), any h, w >= 2, as MATLAB's bicubic (symmetric border), by a convolution and a pixel-shuffle.

    Sides are mirrored by slices, so that they stay symbolic in a graph. Images keep their channels: with each channel
    as an image of its own ncnn takes ten times as long.
    """
    flat = x if x.dim() == 4 else x.reshape(-1, 1, *x.shape[-2:])
    channels = flat.shape[1]
    kernel = torch.from_numpy(_phase_kernel(factor)).to(x).repeat(channels, 1, 1, 1)
    flat = torch.cat([flat[..., 1:2, :], flat[..., :1, :], flat, flat[..., -1:, :], flat[..., -2:-1, :]], -2)
    flat = torch.cat([flat[..., 1:2], flat[..., :1], flat, flat[..., -1:], flat[..., -2:-1]], -1)
    y = F.pixel_shuffle(F.conv2d(flat, kernel, groups=channels), factor)
    return y if x.dim() == 4 else y.reshape(*x.shape[:-2], y.shape[-2], y.shape[-1])


def replicate_to_multiple(x: Tensor, unit: int) -> Tensor:
    """Repeat the last row and column of (..., h, w) until both sides are multiples of ``unit``."""
    for axis in (-2, -1):
        side = x.shape[axis]
        index = torch.arange((side + unit - 1) // unit * unit, device=x.device)
        x = x.index_select(axis, torch.minimum(index, torch.ones_like(index) * (side - 1)))
    return x


def crop_by_gathering(x: Tensor, height: int, width: int) -> Tensor:
    """Cut the upper left (..., height, width), laid out anew: a slice's layout depends on the sizes."""
    for axis, side in ((-2, height), (-1, width)):
        x = x.index_select(axis, torch.arange(side, device=x.device))
    return x


def warp_by_gathering(x: Tensor, flow: Tensor, border: str) -> Tensor:
    """Warp backward by explicit reads of the four neighbors, bilinearly; arguments as of ``backward_warp``.

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
    right, bottom = (
        torch.minimum(left + 1, torch.ones_like(left) * (width - 1)),
        torch.minimum(top + 1, torch.ones_like(top) * (height - 1)),
    )
    fx, fy = (column - left).unsqueeze(1), (row - top).unsqueeze(1)

    def read(rows: Tensor, columns: Tensor) -> Tensor:
        index = (rows.long() * width + columns.long()).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
        return image.flatten(2).gather(2, index).reshape(x.shape)

    upper = read(top, left) * (1 - fx) + read(top, right) * fx
    lower = read(bottom, left) * (1 - fx) + read(bottom, right) * fx
    return (upper * (1 - fy) + lower * fy).to(dtype)


def deform_conv_by_grid(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, dilation: tuple[int, int] = (1, 1)
) -> Tensor:
    """Compute a deformable convolution of stride 1 that keeps the size, as one sampling and a 1x1 convolution.

    Arguments as of ``deform_conv2d``; kernel sides are odd. Its columns, 9 times the input for a 3x3 kernel, are in
    memory at once. Samples are taken in float32 at least, in a graph of half precision too.
    """
    height, width = x.shape[-2:]
    (kh, kw), groups = weight.shape[2:], offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
    real = x.float() if x.dtype == torch.float16 else x
    shift = offset.to(real.dtype).reshape(-1, kh * kw, 2, height, width)
    tap_y, tap_x = (
        torch.arange(-(k // 2), k // 2 + 1, device=x.device, dtype=real.dtype) * d
        for k, d in zip((kh, kw), dilation, strict=True)
    )
    row = torch.arange(height, device=x.device, dtype=real.dtype).view(-1, 1)
    column = torch.arange(width, device=x.device, dtype=real.dtype)
    row = shift[:, :, 0] + row + tap_y.repeat_interleave(kw).view(-1, 1, 1)
    column = shift[:, :, 1] + column + tap_x.repeat(kh).view(-1, 1, 1)
    grid = torch.stack(((2 * column + 1) / width - 1, (2 * row + 1) / height - 1), -1).flatten(1, 2)
    image = real.reshape(-1, x.shape[1] // groups, height, width)
    samples = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    samples = samples.reshape(-1, image.shape[1], kh * kw, height, width).to(x.dtype)
    columns = (samples * mask.reshape(-1, 1, kh * kw, height, width)).reshape(-1, x.shape[1] * kh * kw, height, width)
    return F.conv2d(columns, weight.flatten(1)[..., None, None], bias, groups=x.shape[1] // weight.shape[1])
