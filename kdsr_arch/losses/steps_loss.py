"""DRVSR's own term: every estimate on the way to the result should be the ground truth, the later the more."""

from __future__ import annotations

import torch
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class StepsLoss(DistillLoss):
    """Weighted mean of the mean squared errors of all estimates: ``{student: steps, teacher: gt}``, weight 1.

    Weights rise linearly from ``first`` to ``last`` and are divided by their sum: 2/9, 3/9, 4/9 for three steps. It
    stands in the place of the pixel loss, since the last estimate is the output.

    Source: Tao et al., ICCV 2017, equation 5, with the published weights.

    Args:
        first: weight of the first estimate, before the division.
        last: weight of the last.
    """

    about = About(
        "DRVSR's own term, of the student alone: each estimate on the way",
        "Tao et al., ICCV 2017",
        "Σ_i w_i mean (S_i - y)², w from 2/9 to 4/9 for three estimates",
        "{student: steps, teacher: gt}",
        options="train_drvsr.yml",
    )

    align_channels = False
    align_size = False

    def __init__(self, first: float = 0.5, last: float = 1.0) -> None:
        super().__init__()
        if first < 0 or last <= 0:
            raise UserError(f"StepsLoss: first must be 0 or more and last above 0; got {first} and {last}")
        self.first, self.last = first, last

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        """Return the loss of estimates (F, n, C, H, W) of frames (F, C, H, W).

        Raises:
            UserError: the tap records no estimates.
        """
        if student.dim() != 5:
            raise UserError(f"StepsLoss needs all estimates (F, n, C, H, W), got {tuple(student.shape)}: tap `steps`")
        count, device = student.shape[1], student.device
        weights = torch.linspace(self.last, self.first, count, device=device).flip(0)  # of a single step: the last
        errors = (student - teacher.unsqueeze(1)).square().mean((0, 2, 3, 4))
        return (errors * weights / weights.sum()).sum()
