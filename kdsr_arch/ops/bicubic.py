"""MATLAB's ``imresize(..., 'bicubic')``, for float tensors (differentiable) and for uint8 images (bit for bit).

Float and uint8 differ: MATLAB resizes the height first and, for uint8, rounds to uint8 before it resizes the width.
The LR images of the classical test sets are made on uint8, so a float resize rounded once is not the same image.

Design. Along one axis the resize is a banded matrix (:mod:`kdsr_arch.ops.banded`), built once per length, scale,
antialiasing and border.

Source of the kernel: Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 1981, a = -1/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.ops.banded import (
    Block,
    BlockCache,
    apply_to_columns,
    apply_to_rows,
    build_blocks,
    inside,
    keys_kernel,
    whole_numbers,
)
from kdsr_arch.ops.exporting import bicubic_by_phases, exporting

# Output samples per block when shrinking and enlarging: larger wastes products with zeros, smaller wastes calls.
_BLOCK_DOWN, _BLOCK_UP = 12, 48
_DENOMINATORS = (2**8, 3**4, 2**12)  # of the weights at x1/2, x1/3, x1/4 (and at x2 and x4 upwards)


class _Plan(NamedTuple):
    """What fixes the weights of one axis. ``single``: centers of the kernel in float32, as basicsr computes them.

    Their rounding moves results by up to 1e-5 at factors that are no power of two, so it is part of being equal to
    basicsr, whose float images public models were trained on. MATLAB, and so the uint8 form, computes in float64.
    """

    length: int
    scale: float
    antialias: bool
    border: str
    single: bool


def imresize(x: Tensor, scale: float, antialias: bool = True, border: str = "symmetric") -> Tensor:
    """Resize both axes by one factor, bicubically; differentiable.

    Args:
        x: (..., H, W), floating point, any range.
        scale: above 1 enlarges, below 1 shrinks; need not be an integer or its inverse.
        antialias: widen the kernel by 1 / scale when shrinking, as MATLAB does by default.
        border: ``'symmetric'`` (mirrored, newer MATLAB, basicsr) or ``'replicate'`` (older MATLAB).

    Returns:
        (..., ceil(H * scale), ceil(W * scale)) in the dtype and on the device of ``x``; not clipped. Equal to
        ``basicsr.utils.matlab_functions.imresize`` within 2e-6; float64 input is computed in float64 throughout.
    """
    _check(x, "a floating point", x.is_floating_point(), scale, border)
    with torch.autocast(x.device.type, enabled=False):
        y = x.reshape(-1, *x.shape[-2:])
        y = apply_to_rows(y, _float_blocks(y.shape[1], scale, antialias, border, x.dtype, x.device))
        y = apply_to_columns(y, _float_blocks(y.shape[2], scale, antialias, border, x.dtype, x.device))
    return y.reshape(*x.shape[:-2], *y.shape[-2:]).to(x.dtype)


def upsample_bicubic(x: Tensor, factor: int) -> Tensor:
    """Enlarge by an integer factor as :func:`imresize` does: the interpolated input of VDSR and its kind."""
    return bicubic_by_phases(x, factor) if exporting() else imresize(x, factor)


def imresize_uint8(image: np.ndarray, scale: float, border: str = "symmetric") -> np.ndarray:
    """Resize uint8 or uint16 images as MATLAB does, with antialiasing: rounded after each of the two directions.

    Args:
        image: (H, W), (H, W, C) or (N, H, W, C).
        scale: as in :func:`imresize`. Bit-exact for x1/2, x1/3, x1/4, x1/8, which never meet a rounding error.
        border: as in :func:`imresize`.

    Returns:
        array of the same type and layout.
    """
    _check(image, "a uint8 or uint16", image.dtype in (np.uint8, np.uint16), scale, border)
    if image.ndim < 3:
        return imresize_uint8(image[..., None], scale, border)[..., 0]
    x, peak = whole_numbers(image), int(np.iinfo(image.dtype).max)
    height, width, channels = image.shape[-3:]
    # Height first: in this layout it needs no transposition of the large image.
    y = _resize_whole(apply_to_rows, x.view(-1, height, width * channels), 1, scale, border, peak)
    y = y.view(-1, y.shape[1], width, channels).permute(0, 3, 1, 2)
    y = _resize_whole(apply_to_columns, y, -1, scale, border, peak).to(x.dtype).permute(0, 2, 3, 1).contiguous()
    return y.view(*image.shape[:-3], *y.shape[-3:]).numpy().astype(image.dtype, copy=False)


def _check(image: Tensor | np.ndarray, wanted: str, is_wanted: bool, scale: float, border: str) -> None:
    if not is_wanted:
        raise UserError(f"bicubic resize needs {wanted} image, got {image.dtype}")
    if image.ndim < 2 or min(image.shape) < 1:
        raise UserError(f"bicubic resize needs an image with height and width, got shape {tuple(image.shape)}")
    if not (math.isfinite(scale) and scale > 0):
        raise UserError(f"bicubic resize needs a positive scale, got {scale}")
    one_of("bicubic resize", "border", border, ("symmetric", "replicate"))


@torch.compiler.assume_constant_result
def _float_blocks(
    length: int, scale: float, antialias: bool, border: str, dtype: torch.dtype, device: torch.device
) -> tuple[Block, ...]:
    """Return blocks in float32, unless the process has allowed less exact products of it (TF32 and the like)."""
    single = dtype != torch.float64
    compute = torch.float32 if single and not _inexact_products() else torch.float64
    return _blocks(_Plan(int(length), scale, antialias, border, single), 1, compute, device)


def _inexact_products() -> bool:
    return torch.get_float32_matmul_precision() != "highest"


def _resize_whole(
    apply: Callable[[Tensor, tuple[Block, ...]], Tensor], x: Tensor, axis: int, scale: float, border: str, peak: int
) -> Tensor:
    """Resize one axis of whole numbers in 0..peak; the result are such numbers in floating point."""
    plan = _Plan(x.shape[axis], scale, True, border, False)
    denominator, dtype = _exact_arithmetic(plan, _inexact_products(), peak)
    y = apply(x, _blocks(plan, denominator, dtype, x.device))
    return y.mul_(1 / denominator).add_(0.5).floor_().clamp_(0, peak)


def _taps(plan: _Plan) -> tuple[np.ndarray, np.ndarray]:
    """Return positions, unbounded, from 0, and weights, summing to 1, of the taps of each output: (outputs, taps)."""
    shrink = plan.scale if plan.antialias and plan.scale < 1 else 1.0
    width = 4 / shrink
    real = "float32" if plan.single else "float64"
    output = np.arange(1, math.ceil(plan.length * plan.scale) + 1, dtype=real)
    step, first = np.array([plan.scale, 0.5 * (1 - 1 / plan.scale)], real)
    center = (output / step + first).astype("float64")
    position = np.floor(center - width / 2)[:, None] + np.arange(math.ceil(width) + 2)
    weight = shrink * keys_kernel(shrink * (center[:, None] - position))
    return position.astype(np.int64) - 1, weight / weight.sum(1, keepdims=True)


@lru_cache(maxsize=256)
def _exact_arithmetic(plan: _Plan, inexact_products: bool, peak: int) -> tuple[int, torch.dtype]:
    """Return a denominator that makes all weights whole numbers, and the fastest number type that loses nothing.

    In float32 every partial sum must be a whole number below 2^24, so that no order of summation ever rounds.
    Where no denominator does that, float64 and the plain weights (exact at x1/8, too; elsewhere as good as MATLAB's).
    """
    weight = _taps(plan)[1]
    for denominator in _DENOMINATORS:
        whole = (weight * denominator).round()
        is_whole = np.abs(weight * denominator - whole).max() < 1e-9
        if is_whole and peak * np.abs(whole).sum(1).max() < 2**24 and not inexact_products:
            return denominator, torch.float32
    return 1, torch.float64


@BlockCache
def _blocks(plan: _Plan, denominator: int, dtype: torch.dtype, device: torch.device) -> tuple[Block, ...]:
    """Return the banded matrix of an axis, times ``denominator``."""
    position, weight = _taps(plan)
    if denominator > 1:
        weight = (weight * denominator).round()
    size = _BLOCK_DOWN if plan.scale < 1 else _BLOCK_UP
    return build_blocks(inside(position, plan.length, plan.border), weight, size, dtype, device)
