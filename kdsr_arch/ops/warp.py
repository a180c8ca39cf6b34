"""Warping by optical flow, backward and forward, and exact positions for ``grid_sample``.

``grid_sample`` takes positions as fractions of the image side. For a side that is a power of two the conversion there
and back is exact, so a sample at a whole pixel stays there: zero flow is the identity, and offsets of zero, all of
them in a freshly initialized network, have the gradient of the definition. Images are padded to such sides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.ops.exporting import exporting, warp_by_gathering


def pad_to_power_of_two(x: Tensor) -> Tensor:
    """Pad (B, C, H, W) to (B, C, H', W') with zeros below and to the right."""
    more_h, more_w = ((1 << max(0, n - 1).bit_length()) - n for n in x.shape[-2:])
    return F.pad(x, (0, more_w, 0, more_h))


def to_fraction(position: Tensor, side: int) -> Tensor:
    """Map pixels to fractions in [-1, 1] of a side that is a power of two. Differentiable."""
    return position * (2 / side) + (1 / side - 1)


def to_fraction_within_pixel(position: Tensor, side: int) -> Tensor:
    """Apply :func:`to_fraction` in place, without gradient, to any position: none crosses a pixel by rounding.

    Positions are rounded here to the resolution that fractions have, so that all later arithmetic is exact, but never
    up to the next pixel: the gradient of a position is that of the pixels it lies between.
    """
    steps = 2 / (side * torch.finfo(position.dtype).eps)  # per pixel
    pixel = position.floor()
    between = position.sub_(pixel).mul_(steps).round_().clamp_(max=steps - 1)
    return between.mul_(2 / (side * steps)).add_(pixel, alpha=2 / side).add_(1 / side - 1)


def sample_bilinear(image: Tensor, grid: Tensor) -> Tensor:
    """Sample (B, C, H', W') at (B, Ho, Wo, 2) fractions (x, y); pixels outside are 0."""
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def backward_warp(x: Tensor, flow: Tensor, border: str = "zeros") -> Tensor:
    """Sample ``out[p] = x[p + flow[p]]`` bilinearly. Zero flow is the identity and whole pixels are exact.

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
    one_of("backward_warp", "border", border, ("zeros", "border"))
    if exporting():
        return warp_by_gathering(x, flow, border)
    h, w = x.shape[2:]
    dtype = torch.float64 if torch.float64 in (x.dtype, flow.dtype) else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        image, flow = pad_to_power_of_two(x.to(dtype)), flow.to(dtype)
        column = torch.arange(w, device=x.device, dtype=dtype) + flow[:, 0]
        row = torch.arange(h, device=x.device, dtype=dtype).view(-1, 1) + flow[:, 1]
        fractions = []
        for position, side, padded in ((column, w, image.shape[3]), (row, h, image.shape[2])):
            # Positions stop where nothing changes any more; there, and at the outermost pixel of 'border', no gradient.
            if border == "zeros":
                position = position.clamp(-2, side + 1)
            else:
                position = torch.where(position <= 0, position.new_zeros(()), position)
                position = torch.where(position >= side - 1, position.new_full((), side - 1), position)
            fractions.append(to_fraction(position, padded))
        warped = sample_bilinear(image, torch.stack(fractions, -1))
    return warped.to(x.dtype)


def forward_splat(x: Tensor, flow: Tensor, scale: int = 1) -> Tensor:
    """Move each pixel to ``scale * (p + flow[p])`` and share it among the four pixels there, bilinearly.

    What falls together is added up; nothing is normalized. Zero flow puts pixel p at ``scale * p`` and leaves zeros
    between. A share outside of the image goes, whole, to the nearest pixel, so that they pile up at the border. The
    sub-pixel motion compensation of Tao et al., "Detail-revealing Deep Video Super-resolution", ICCV 2017, section 3.3.

    Args:
        x: (B, C, h, w).
        flow: (B, 2, h, w) in pixels of ``x``, (dx, dy).
        scale: size of the result over that of ``x``.

    Returns:
        (B, C, h * scale, w * scale) in the dtype of ``x``; positions are computed in float32 or float64, under autocast
        too. Differentiable by ``x`` and, through the shares, by ``flow``; NaN in the flow gives NaN somewhere.

    Raises:
        UserError: shapes that do not fit.
    """
    if x.dim() != 4 or tuple(flow.shape) != (x.shape[0], 2, *x.shape[2:]):
        raise UserError(f"forward_splat: input {tuple(x.shape)} and flow {tuple(flow.shape)} do not fit together")
    (h, w), dtype = x.shape[2:], torch.promote_types(torch.promote_types(x.dtype, flow.dtype), torch.float32)
    height, width = h * scale, w * scale
    values, flow = x.to(dtype), flow.to(dtype)
    shift = flow * scale
    whole = shift.detach().floor()
    (right, down), (column, row) = (shift - whole).unbind(1), whole.unbind(1)  # exact shares at large places too
    column = column + torch.arange(w, device=x.device, dtype=dtype) * scale
    row = row + torch.arange(h, device=x.device, dtype=dtype).view(-1, 1) * scale
    shares, places = [], []
    for y, vertical in ((row, 1 - down), (row + 1, down)):
        for c, horizontal in ((column, 1 - right), (column + 1, right)):
            shares.append((values * (vertical * horizontal).unsqueeze(1)).flatten(2))
            places.append((_nearest(y, height) * width + _nearest(c, width)).flatten(1))
    place = torch.cat(places, 1).unsqueeze(1).expand(-1, x.shape[1], -1)
    empty = values.new_zeros(x.shape[0], x.shape[1], height * width)
    return empty.scatter_add(2, place, torch.cat(shares, 2)).unflatten(2, (height, width)).to(x.dtype)


def _nearest(position: Tensor, side: int) -> Tensor:
    """Return whole positions moved into 0..side - 1, as indices."""
    position = position.nan_to_num(0.0).clamp(min=0)
    return torch.minimum(position, torch.ones_like(position) * (side - 1)).long()
