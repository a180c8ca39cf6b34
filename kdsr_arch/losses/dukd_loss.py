"""DUKD: teacher and student compared on images that were made from the batch, of which no store knows."""

from __future__ import annotations

import torch
from torch import Tensor

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import CRITERIA, Context, DistillLoss
from kdsr_arch.ops.bicubic import imresize
from kdsr_arch.ops.color import matched_colors
from kdsr_arch.registry import LOSS_REGISTRY

LUMA_SUM = (16 + 235) / 255
"""Luma of black plus luma of white."""


@LOSS_REGISTRY.register()
class DUKDLoss(DistillLoss):
    """Data upcycling: zoom-in, zoom-out and label consistency (Zhang et al., arXiv 2309.14162).

    Zoom-in: u are cells of the ground truth of the size of an LR image, and the term is d(f^-1 S(f(u)), T(u)), where f
    is random for each image: colors inverted, flipped up and down, flipped left and right, transposed. Zoom-out: v is
    the LR image made smaller once more, and the term is ``pixel`` * d(S(v), x) + d(S(v), T(v)). They go beside the
    pixel loss (5) and the distance between the outputs (1); see options/train_dukd.yml.

    The authors' code takes a second step of the optimizer for this term, without clearing the first one's gradients,
    so that those count twice, and undoes f in the order in which it was done, which is wrong where a transposed image
    was flipped once. Here it is one sum, one step, and the inverse. Their option files for SwinIR leave zoom-out off.

    Runs the live teacher. For image networks and square crops.

    Args:
        zoom_in: cells for each image of the batch, of the scale^2 that a ground truth has; 0: none.
        zoom_out: whether LR images are made smaller.
        pixel: weight of d(S(v), x).
        probability: of each of f's four parts; 0: no label consistency.
        criterion: d, 'l1' (published) or 'l2'.
    """

    about = About(
        "DUKD: zoom-in, zoom-out, label consistency",
        "Zhang et al., arXiv 2309.14162",
        "mean |f⁻¹(S(f(u))) - T(u)| + mean |S(v) - x| + mean |S(v) - T(v)|, u cut out of y, v = x made smaller",
        "none, 1 beside 5 x pixel and 1 x output",
        ratio="1.7 to 4.7",
        options="train_dukd.yml",
    )

    sides = "none"
    context = True
    live_teacher = True

    def __init__(
        self,
        zoom_in: int = 1,
        zoom_out: bool = True,
        pixel: float = 5.0,
        probability: float = 0.3,
        criterion: str = "l1",
    ) -> None:
        super().__init__()
        if zoom_in < 0 or not 0 <= probability <= 1 or pixel < 0 or not (zoom_in or zoom_out):
            raise UserError(
                "DUKDLoss: zoom_in must be 0 or more, pixel too, probability from 0 to 1, and one of zoom_in and "
                f"zoom_out be on; got {zoom_in}, {pixel}, {probability} and zoom_out {zoom_out}"
            )
        self.zoom_in, self.zoom_out, self.pixel, self.probability = zoom_in, zoom_out, pixel, probability
        self.criterion = CRITERIA[one_of("DUKDLoss", "criterion", criterion, CRITERIA)]

    def forward(self, context: Context) -> Tensor:  # type: ignore[override]
        """Return the sum of both zooms."""
        require_images("DUKDLoss", context)
        parts = [self._zoom_in(context)] if self.zoom_in else []
        return torch.stack([*parts, *([self._zoom_out(context)] if self.zoom_out else [])]).sum()

    def _zoom_in(self, context: Context) -> Tensor:
        cells = cells_of(context.gt, context.lq, self.zoom_in)
        change = draw(cells, self.probability)
        sr = context.student(changed(cells, change))
        black_and_white = 1.0 if sr.shape[1] == cells.shape[1] else LUMA_SUM
        return self._distance(undone(sr, change, black_and_white), context.teacher(cells))

    def _zoom_out(self, context: Context) -> Tensor:
        scale = context.scale
        height, width = (side // scale * scale for side in context.lq.shape[-2:])
        whole = context.lq[..., :height, :width]
        small = imresize(whole, 1 / scale)
        sr = context.student(small)
        return self.pixel * self._distance(sr, whole) + self._distance(sr, context.teacher(small))

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        return self.criterion(*matched_colors(a, b))


def require_images(owner: str, context: Context) -> None:
    """Raise a UserError where the batch holds clips, or crops that are not square."""
    shape = tuple(context.lq.shape)
    if len(shape) != 4 or shape[-1] != shape[-2]:
        raise UserError(f"{owner} is for networks of images and square crops (set gt_size), got LR images {shape}")


def cells_of(gt: Tensor, lq: Tensor, count: int) -> Tensor:
    """Cut `count` of the scale^2 cells of LR size out of (B, C, H, W), at random: (count * B, C, h, w)."""
    height, width = lq.shape[-2:]
    cells = gt.unflatten(-1, (-1, width)).unflatten(-3, (-1, height))  # (B, C, rows, h, columns, w)
    cells = cells.permute(2, 4, 0, 1, 3, 5).flatten(0, 1)
    if count > len(cells):
        raise UserError(f"DUKDLoss: a ground truth has {len(cells)} cells of LR size, so zoom_in cannot be {count}")
    chosen = torch.rand(cells.shape[0], device=gt.device).argsort()[:count]
    return cells.index_select(0, chosen).flatten(0, 1)


def draw(images: Tensor, probability: float) -> Tensor:
    """Draw which of the four parts of f each image gets: (4, B, 1, 1, 1), True for those that it gets."""
    return torch.rand(4, images.shape[0], 1, 1, 1, device=images.device) < probability


def changed(images: Tensor, change: Tensor) -> Tensor:
    """Apply f to square images (B, C, H, H) in [0, 1]: invert, flip up and down, flip left and right, transpose."""
    invert, vertical, horizontal, transpose = change
    images = torch.where(invert, 1 - images, images)
    images = torch.where(vertical, images.flip(-2), images)
    images = torch.where(horizontal, images.flip(-1), images)
    return torch.where(transpose, images.transpose(-1, -2), images)


def undone(images: Tensor, change: Tensor, black_and_white: float = 1.0) -> Tensor:
    """Apply the inverse of f: the same parts in the opposite order.

    Args:
        images: (B, C, H, H).
        change: what :func:`draw` drew.
        black_and_white: the sum of both in the color of `images`: 1, or LUMA_SUM for the luma of inverted RGB.
    """
    invert, vertical, horizontal, transpose = change
    images = torch.where(transpose, images.transpose(-1, -2), images)
    images = torch.where(horizontal, images.flip(-1), images)
    images = torch.where(vertical, images.flip(-2), images)
    return torch.where(invert, black_and_white - images, images)
