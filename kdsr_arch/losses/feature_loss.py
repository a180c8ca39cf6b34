"""The plainest feature distillation: a distance between feature maps, the control of the cleverer ones."""

from __future__ import annotations

from torch import Tensor

from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.losses.maps import CRITERIA, choose
from kdsr_arch.registry import LOSS_REGISTRY

EPS = 1e-8


@LOSS_REGISTRY.register()
class FeatureLoss(DistillLoss):
    """Mean distance between the student's and the teacher's feature maps (hint loss; Romero et al., ICLR 2015).

    Student and teacher (F, C, H, W) of any range; the student's side is adapted where channels or sizes differ.

    Args:
        criterion: 'l2' (the mean squared difference) or 'l1'.
        normalize: 'none', or 'teacher_rms': both divided by the teacher's root mean square over the batch.
    """

    def __init__(self, criterion: str = "l2", normalize: str = "none") -> None:
        super().__init__()
        name = type(self).__name__
        self.criterion = CRITERIA[choose(name, "criterion", criterion, list(CRITERIA))]
        self.normalize = choose(name, "normalize", normalize, ("none", "teacher_rms"))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        """Scalar; see the class."""
        if self.normalize == "teacher_rms":
            scale = 1 / (teacher.square().mean().sqrt() + EPS)
            student, teacher = student * scale, teacher * scale
        return self.criterion(student, teacher)
