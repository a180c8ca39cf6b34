"""RSDN's own term: its two images should be the structure and the details of the ground truth."""

from __future__ import annotations

import torch
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.ops.structure import structure_of
from kdsr_arch.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class StructureDetailLoss(DistillLoss):
    """Charbonnier distances of RSDN's images: ``{student: [structure, detail], teacher: [gt, gt]}``, weight 1.

    The structure of the ground truth is the image halved and doubled bilinearly, its detail the rest, as RSDN splits
    its LR frames. The pixel loss on the output is the paper's third part, of the same weight.

    Source: Isobe et al., ECCV 2020, section 3.4. The authors' training code was never published: the equal weights and
    ``eps`` are the usual ones, not known to be theirs.

    Args:
        eps: of sqrt(d^2 + eps).
    """

    about = About(
        "RSDN's own term, of the student alone: structure and detail",
        "Isobe et al., ECCV 2020",
        "mean √((S_s - y_s)² + ε) + mean √((S_d - (y - y_s))² + ε), y_s = y halved and doubled",
        "{student: [structure, detail], teacher: [gt, gt]}",
        options="train_rsdn.yml",
    )

    align_channels = False
    align_size = False
    multi = True

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:  # type: ignore[override]
        """Return the sum of both means.

        Args:
            student: structure and detail, (F, 3, H, W) each, H and W even.
            teacher: twice the ground truth.

        Raises:
            UserError: another number of taps.
        """
        if len(student) != 2:
            raise UserError("StructureDetailLoss takes `student: [structure, detail]` and `teacher: [gt, gt]`")
        structure = structure_of(teacher[0])
        targets = (structure, teacher[1] - structure)
        parts = [((s - t).square() + self.eps).sqrt().mean() for s, t in zip(student, targets, strict=True)]
        return torch.stack(parts).sum()
