"""Affinity matrices of feature maps, and the spatial one's loss in tiles that never hold the whole matrix."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.losses.base import unit

TILE_ELEMENTS = 2**24
"""Entries of the affinity held at once by ``tile='auto'``: 64 MiB in float32."""
MAX_TILE = 1024


def spatial_affinity(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Return cosines between the channel vectors of all positions: (N, C, H, W) to (N, HW, HW)."""
    a = unit(x.flatten(2), 1, eps)
    return a.transpose(1, 2) @ a


def channel_affinity(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Return cosines between the maps of all channels: (N, C, H, W) to (N, C, C)."""
    a = unit(x.flatten(2), 2, eps)
    return a @ a.transpose(1, 2)


def instance_affinity(x: Tensor) -> Tensor:
    """Return the Gram matrix of the flattened samples, its rows scaled to unit length: (N, ...) to (N, N)."""
    f = x.flatten(1)
    return unit(f @ f.T, 1)


def pool_map(x: Tensor, size: int, mode: str = "avg") -> Tensor:
    """Average or maximum over ``size`` x ``size`` windows; windows cut by the border use the pixels there are."""
    if size <= 1:
        return x
    pool = F.max_pool2d if mode == "max" else F.avg_pool2d
    return pool(x, size, size, ceil_mode=True)


class _TiledAffinityLoss(torch.autograd.Function):
    """Mean |D| or D^2 with ``D = S^T S - T^T T`` for S (N, C1, P), T (N, C2, P), one tile of D at a time.

    D is symmetric, so the tiles above the diagonal count twice. The loss is one number, so its gradient is
    finished, up to a factor, in the pass that computes it: each tile is formed once, and only the gradients, of
    the size of the features, are kept for backward.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, criterion: str, tile: int) -> Tensor:
        """Return the loss, a scalar, of unit vectors S (N, C1, P) and T (N, C2, P); criterion 'l1' or 'l2'."""
        n, _, p = student.shape
        sides, wanted = (student, -teacher), ctx.needs_input_grad[:2]
        left, right = torch.cat([student, teacher], 1), torch.cat(sides, 1)
        kept = [side for side, want in zip(sides, wanted, strict=True) if want]  # a frozen teacher costs no gradient
        seen = torch.cat(kept, 1) if kept else right[:, :0]
        grad = torch.zeros_like(seen)
        total = student.new_zeros((), dtype=torch.float64)
        pairs = ((i, j) for i in range(0, p, tile) for j in range(i, p, tile))  # on and above the diagonal
        for rows, cols in ((slice(i, i + tile), slice(j, j + tile)) for i, j in pairs):
            twice = 1 if rows == cols else 2
            d = left[:, :, rows].transpose(1, 2) @ right[:, :, cols]
            total += twice * (d * d if criterion == "l2" else d.abs()).sum(-1).sum(dtype=torch.float64)
            if kept:
                g = d if criterion == "l2" else d.sign_()
                grad[:, :, cols] += seen[:, :, rows] @ g  # this tile's share of seen @ G for the symmetric G
                if rows != cols:
                    grad[:, :, rows] += seen[:, :, cols] @ g.transpose(1, 2)
        if kept:
            grad *= (4.0 if criterion == "l2" else 2.0) / (n * p * p)
            parts = iter(grad.split([side.shape[1] for side in kept], 1))
            ctx.save_for_backward(*(next(parts) if want else None for want in wanted))
        return (total / (n * p * p)).to(student.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Return what `forward` computed for each side that wants a gradient, times the scalar ``grad_output``."""
        grads = [None if g is None else g * grad_output for g in ctx.saved_tensors]
        return (*grads, None, None)


def tile_size(batch: int, tile: int | str) -> int:
    """Return the side of tiles: as given, or the largest for which the batch's tiles stay within ``TILE_ELEMENTS``."""
    if tile != "auto":
        return int(tile)
    side = int((TILE_ELEMENTS / max(batch, 1)) ** 0.5)
    return max(64, min(MAX_TILE, side // 64 * 64))


@torch.compiler.disable
def spatial_affinity_loss(
    student: Tensor, teacher: Tensor, criterion: str = "l1", tile: int | str = "auto", eps: float = 1e-8
) -> Tensor:
    """Return the distance between spatial affinities of maps (N, C1, H, W) and (N, C2, H, W) without forming them.

    Args:
        student, teacher: maps of one size; both may need gradients.
        criterion: 'l1' or 'l2', the mean over the batch and all pairs of positions.
        tile: side of the square tiles of the affinity in memory, or 'auto'.
        eps: added to the norm of each channel vector.
    """
    s, t = unit(student.flatten(2), 1, eps), unit(teacher.flatten(2), 1, eps)
    return _TiledAffinityLoss.apply(s, t, criterion, tile_size(len(s), tile))


def check_memory(owner: str, batch: int, height: int, width: int, tile: int | None, limit_gib: float) -> None:
    """Refuse, with the arithmetic, matrices of a batch that would exceed ``limit_gib``.

    Args:
        owner: the loss, for the message.
        batch, height, width: of the map after pooling.
        tile: side of the tiles, or None for whole matrices.
        limit_gib: the most memory the matrices may take.
    """
    positions = height * width
    side = positions if tile is None else min(tile, positions)
    copies = 4 if tile is None else 2  # student, teacher, difference and its gradient; or a tile and its magnitude
    gib = copies * batch * side * side * 4 / 2**30
    if gib > limit_gib:
        raise UserError(
            f"{owner}: the affinity of a {height}x{width} map needs {copies} x {batch} (batch) x {side}^2 x 4 bytes = "
            f"{gib:.1f} GiB, more than memory_gib={limit_gib:g}: set tile: auto, or pool: k (memory / k^4), "
            "or a smaller crop"
        )
