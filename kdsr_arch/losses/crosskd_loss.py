"""CrossKD-SR: the student's features go on through the teacher's layers, which say what they are worth."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import CRITERIA, Context, DistillLoss, require_map
from kdsr_arch.ops.color import matched_colors
from kdsr_arch.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class CrossKDLoss(DistillLoss):
    """Distance between an image that the teacher's frozen later layers make of a student's feature and a target.

    Each pair of taps says where the student leaves and where it enters the teacher; a train-only 1x1 convolution fits
    the channels (a resize the size) and is trained along. The values of the pairs are summed.

    Source: "Cross Knowledge Distillation for Image Super-Resolution" (ICVIP 2022), of whose abstract this is the idea:
    "cascading the student into the teacher network". UNCERTAIN, hence options: the target and the distance.

    Runs the live teacher. For image networks. A teacher that computes in 0..255 (``img_range: 255``) makes little of
    features in [0, 1] until the convolution has grown.

    Args:
        target: 'gt', the ground truth, or 'teacher', what the whole teacher makes.
        criterion: 'l1' or 'l2'.
    """

    about = About(
        "CrossKD-SR: the student's features through the teacher's later layers",
        "ICVIP 2022",
        "mean |T_later(c(F_S)) - y|, c a 1x1 convolution",
        "{at: f_lr, loss_weight: {balance: 0.5}}",
        ratio="as balanced",
        options="train_crosskd.yml",
    )

    context = True
    live_teacher = True

    def __init__(self, target: str = "gt", criterion: str = "l1") -> None:
        super().__init__()
        self.target = one_of("CrossKDLoss", "target", target, ("gt", "teacher"))
        self.criterion = CRITERIA[one_of("CrossKDLoss", "criterion", criterion, CRITERIA)]

    def forward(self, students: list[Any], teachers: list[Any], context: Context) -> Tensor:  # type: ignore[override]
        """Return the sum over the pairs.

        Args:
            students: features that the adapters have given the shape of the teacher's.
            teachers: what stood in their place; not used.
            context: the teacher and the batch.
        """
        if context.lq.dim() != 4 or {"output", "lq", "gt"} & set(context.taps):
            raise UserError("CrossKDLoss is for networks of images, and taps a layer inside the teacher (f_lr, say)")
        target = context.gt if self.target == "gt" else context.teacher(context.lq)
        maps = [require_map("CrossKDLoss", feature) for feature in students]
        entries = [{path: partial(_instead, feature)} for path, feature in zip(context.taps, maps, strict=True)]
        images = [context.resume(entry) for entry in entries]
        return torch.stack([self.criterion(*matched_colors(image, target)) for image in images]).sum()


def _instead(feature: Tensor, made: Tensor) -> Tensor:
    return feature
