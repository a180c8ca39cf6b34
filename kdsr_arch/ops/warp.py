"""Backward warping of images and feature maps by optical flow."""

from __future__ import annotations

import torch
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.ops.exporting import exporting, warp_by_gathering
from kdsr_arch.ops.grid_sample import pad_to_power_of_two, sample_bilinear, to_fraction

__all__ = ["backward_warp"]


def backward_warp(x: Tensor, flow: Tensor, border: str = "zeros") -> Tensor:
    """``out[p] = x[p + flow[p]]`` by bilinear sampling. Zero flow is the identity and whole pixels are exact.

    Args:
        x: (B, C, H, W).
        flow: (B, 2, H, W) in pixels, (dx, dy).
        border: what lies outside of ``x``: ``'zeros'``, or ``'border'`` for the nearest pixel.

    Returns:
        (B, C, H, W) in the dtype of ``x``; positions are computed in float32 or float64, under autocast too.
        Differentiable by both; NaN in the flow gives NaN there.

    Raises:
        UserError: shapes that do not fit, or an unknown border.
    """
    if x.dim() != 4 or tuple(flow.shape) != (x.shape[0], 2, *x.shape[2:]):
        wanted = "(B, 2, H, W)" if x.dim() != 4 else str((x.shape[0], 2, *x.shape[2:]))
        raise UserError(f"backward_warp: for input {tuple(x.shape)} flow must be {wanted}, got {tuple(flow.shape)}")
    if border not in ("zeros", "border"):
        raise UserError(f"backward_warp: border is '{border}', expected 'zeros' or 'border'")
    if exporting():
        return warp_by_gathering(x, flow, border)
    h, w = x.shape[2:]
    dtype = torch.float64 if torch.float64 in (x.dtype, flow.dtype) else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        image, flow = pad_to_power_of_two(x.to(dtype)), flow.to(dtype)
        column = torch.arange(w, device=x.device, dtype=dtype) + flow[:, 0]
        row = torch.arange(h, device=x.device, dtype=dtype).view(-1, 1) + flow[:, 1]
        fractions = [
            to_fraction(_stop(position, side, border), padded)
            for position, side, padded in ((column, w, image.shape[3]), (row, h, image.shape[2]))
        ]
        warped = sample_bilinear(image, torch.stack(fractions, -1))
    return warped.to(x.dtype)


def _stop(position: Tensor, side: int, border: str) -> Tensor:
    """Positions held where nothing changes any more; there, and at the outermost pixel of 'border', no gradient."""
    if border == "zeros":
        return position.clamp(-2, side + 1)
    position = torch.where(position <= 0, position.new_zeros(()), position)
    return torch.where(position >= side - 1, position.new_full((), side - 1), position)
