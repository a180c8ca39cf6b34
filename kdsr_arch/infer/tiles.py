"""Restoring large frames tile by tile, with an overlap: equal to the whole where the network is local."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.infer.traits import Traits


def lr_multiple(traits: Traits) -> int:
    """What the LR height and width given to a network must be a multiple of."""
    if not traits.upsampled_input:
        return traits.multiple
    return traits.multiple // math.gcd(traits.multiple, traits.scale)


def _spans(length: int, tile: int, overlap: int, multiple: int) -> list[tuple[int, int, int, int]]:
    """(start, end, outer start, outer end) of each tile along one side; the tiles are of nearly equal length.

    Starts are multiples of ``multiple``, so that strided layers see the same grid as in the whole frame.
    """
    count = math.ceil(length / tile)
    core = math.ceil(length / count / multiple) * multiple
    reach = math.ceil(overlap / multiple) * multiple
    return [
        (start, min(start + core, length), max(start - reach, 0), min(start + core + reach, length))
        for start in range(0, length, core)
    ]


def restore_tiled(
    restore: Callable[[Tensor], Tensor], lq: Tensor, scale: int, tile: int, overlap: int = 16, multiple: int = 1
) -> Tensor:
    """``restore(lq)`` computed on overlapping tiles.

    The result equals the whole within float error when ``overlap`` is at least the radius of the network's receptive
    field in LR pixels. Networks with global operations (channel attention over the whole frame, non-local blocks) have
    no such radius: their tiles differ a little from the whole.

    Args:
        restore: maps (..., h, w) to (..., h * scale, w * scale); the leading dimensions may change.
        lq: images (B, C, h, w) or clips (B, T, C, h, w).
        tile: height and width of a tile in LR pixels without its overlap; 0 for the whole at once.
        overlap: LR pixels that each tile sees beyond its edge.
        multiple: tile corners fall on multiples of this (see :func:`lr_multiple`).

    Returns:
        what ``restore`` gives for the whole.

    Raises:
        UserError: a negative tile or overlap.
    """
    if tile < 0 or overlap < 0:
        raise UserError(f"val.tile and val.tile_overlap must not be negative, got {tile} and {overlap}")
    height, width = lq.shape[-2:]
    if tile == 0 or (height <= tile and width <= tile):
        return restore(lq)
    rows = []
    for top, bottom, outer_top, outer_bottom in _spans(height, tile, overlap, multiple):
        row = []
        for left, right, outer_left, outer_right in _spans(width, tile, overlap, multiple):
            part = restore(lq[..., outer_top:outer_bottom, outer_left:outer_right])
            row.append(
                part[
                    ...,
                    (top - outer_top) * scale : (bottom - outer_top) * scale,
                    (left - outer_left) * scale : (right - outer_left) * scale,
                ]
            )
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)
