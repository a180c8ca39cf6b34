"""ECO: a teacher that fades out, as input and target drift from what it makes to what is true."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import CRITERIA, Context, DistillLoss
from kdsr_arch.ops.bicubic import imresize
from kdsr_arch.ops.color import matched_colors
from kdsr_arch.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class ECOLoss(DistillLoss):
    """The loss between S(lerp(down(T(x)), x, a)) and lerp(T(x), y, a), with a from 0 to 1 (ECO, AAAI 2024).

    x is the LR image, y the ground truth, down MATLAB's bicubic. T(x) is clipped to [0, 1]. At a = 0 the student learns
    a mapping that is nearly a function, from the teacher's image made smaller to that image; at a = 1 this is the plain
    pixel loss. So the term stands in the place of the pixel loss, alone in a first stage; a second stage without it
    runs no teacher: see options/train_eco.yml. T(x) may come from a store.

    Source: equation 14 of the paper as traiNNer-redux states and computes it, with its linear schedule; there x is
    down(y), which makes the input here the same.

    Args:
        iters: iterations in which a rises to 1.
        mix_input: False leaves the input as it is (``hr_only`` elsewhere), so that the target alone drifts.
        criterion: 'l1' or 'l2'.
    """

    about = About(
        "ECO: a teacher that fades out",
        "Lee and Heo, AAAI 2024",
        "mean |S(lerp(↓T(x), x, a)) - lerp(T(x), y, a)|, a from 0 to 1",
        "none, 1 in the place of the pixel loss",
        options="train_eco.yml",
    )

    sides = "teacher"
    context = True

    def __init__(self, iters: int, mix_input: bool = True, criterion: str = "l1") -> None:
        super().__init__()
        if iters < 1:
            raise UserError(f"ECOLoss: iters must be 1 or more, not {iters}")
        self.iters, self.mix_input = iters, mix_input
        self.criterion = CRITERIA[one_of("ECOLoss", "criterion", criterion, CRITERIA)]

    def forward(self, teachers: list[Any], context: Context) -> Tensor:  # type: ignore[override]
        """Return the loss.

        Args:
            teachers: the teacher's output (B, C, H, W), alone.
            context: the batch and the iteration.
        """
        if context.lq.dim() != 4 or len(teachers) != 1:
            raise UserError("ECOLoss is for networks of images, and one tap: the teacher's output")
        share = (context.iteration / self.iters).clamp(max=1)
        taught, gt = matched_colors(teachers[0].clamp(0, 1), context.gt)
        if taught.shape != gt.shape:
            raise UserError(
                f"ECOLoss: the teacher's tap gives {tuple(taught.shape)} for {tuple(gt.shape)}; take it out"
            )
        lq = self._drifted(teachers[0].clamp(0, 1), context, share) if self.mix_input else context.lq
        return self.criterion(*matched_colors(context.student(lq), torch.lerp(taught, gt, share)))

    def _drifted(self, taught: Tensor, context: Context, share: Tensor) -> Tensor:
        if taught.shape[1] != context.lq.shape[1]:
            raise UserError(
                f"ECOLoss: the teacher makes images of {taught.shape[1]} channel(s), the student is given "
                f"{context.lq.shape[1]}: set mix_input: false"
            )
        return torch.lerp(imresize(taught, 1 / context.scale), context.lq, share)
