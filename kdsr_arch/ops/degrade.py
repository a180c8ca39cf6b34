"""BD, the blur degradation of video super-resolution: a Gaussian, then every scale-th pixel.

Source: Jo et al., "Deep Video Super-Resolution Network Using Dynamic Upsampling Filters", CVPR 2018, section 4: sigma
1.6 at x4, 13x13 taps, mirrored border.
"""

from __future__ import annotations

import numpy as np
import torch

from kdsr_arch.errors import UserError
from kdsr_arch.ops.banded import Block, BlockCache, apply_to_columns, apply_to_rows, build_blocks, inside, whole_numbers

BD_SIGMA = 1.6
_REACH = 4.0  # taps up to this many sigmas: 13 for sigma 1.6
_OUTPUTS_PER_BLOCK = 48


def bd_downsample(frame: np.ndarray, scale: int, sigma: float = BD_SIGMA) -> np.ndarray:
    """Degrade uint8 or uint16 frames by BD, rounded once, at the end.

    Args:
        frame: (H, W, C) or (N, H, W, C), uint8 or uint16, H and W multiples of ``scale``.
        scale: 2, 3, 4, ...
        sigma: standard deviation in pixels of ``frame``; taps reach 4 sigma, weights sum to 1.

    Returns:
        array (..., H / scale, W / scale, C) of the same type. A part of the frame, given with enough pixels around it,
        yields the same numbers as the whole.

    Raises:
        UserError: another type or shape, or a size that ``scale`` does not divide.
    """
    if frame.dtype not in (np.uint8, np.uint16) or frame.ndim not in (3, 4):
        wanted = "uint8 or uint16 frames (H, W, C) or (N, H, W, C)"
        raise UserError(f"bd_downsample needs {wanted}, got {frame.dtype} {frame.shape}")
    height, width, channels = frame.shape[-3:]
    if scale < 1 or height % scale or width % scale:
        raise UserError(f"bd_downsample: {height}x{width} is no multiple of the scale {scale}")
    rows, columns = (_blocks(side, scale, float(sigma)) for side in (height, width))
    x = whole_numbers(frame).view(-1, height, width * channels)
    y = apply_to_rows(x, rows).view(-1, height // scale, width, channels).permute(0, 3, 1, 2)
    y = apply_to_columns(y, columns).add_(0.5).floor_()
    y = y.clamp_(0, np.iinfo(frame.dtype).max).to(x.dtype).permute(0, 2, 3, 1).contiguous()
    return y.view(*frame.shape[:-3], *y.shape[1:]).numpy().astype(frame.dtype, copy=False)


@BlockCache
def _blocks(length: int, scale: int, sigma: float) -> tuple[Block, ...]:
    reach = int(_REACH * sigma + 0.5)
    tap = np.arange(-reach, reach + 1)
    weight = np.exp(-0.5 * (tap / sigma) ** 2)
    center = np.arange(0, length, scale)
    position = inside(center[:, None] + tap, length, "reflect")
    weight = np.broadcast_to(weight / weight.sum(), position.shape)
    # float64: sums differ in the last bits with the size of the products, which must not reach the rounded result.
    return build_blocks(position, weight, max(1, _OUTPUTS_PER_BLOCK // scale), torch.float64, torch.device("cpu"))
