"""The distillation of implicit degradation estimators by Xia et al., whose method is called KDSR as well."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from kdsr_arch.errors import UserError
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class DegradationLoss(DistillLoss):
    """KL(softmax(t / temperature) || softmax(s / temperature)) of two vectors, the mean over the images.

    s and t are what student and teacher make of the degradation of an image, tapped as 'degradation' in BlindSR and
    BlindSRTeacher, which sees the ground truth as well.

    Source: Xia et al., "Knowledge Distillation based Degradation Estimation for Blind Super-Resolution", ICLR 2023, as
    the authors' code computes it: weight 1 beside the pixel loss.

    Args:
        temperature: divides both vectors.
    """

    about = About(
        '"KDSR" of Xia et al.: an estimator of degradations for blind SR',
        "Xia et al., ICLR 2023",
        "KL(softmax(t / τ) || softmax(s / τ)), s and t the vectors of the degradation",
        "{at: degradation, loss_weight: 1}",
        options="train_blind.yml",
        store="no",
    )

    align_channels = False
    align_size = False

    def __init__(self, temperature: float = 0.15) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"DegradationLoss: temperature must be above 0, not {temperature}")
        self.temperature = temperature

    def forward(self, student: Any, teacher: Any) -> Tensor:  # type: ignore[override]
        """Return the loss of vectors (B, L)."""
        for vector in (student, teacher):
            if not isinstance(vector, Tensor) or vector.dim() != 2 or vector.shape != student.shape:
                raise UserError(
                    "DegradationLoss compares two vectors of one length for each image: tap 'degradation' of BlindSR "
                    "and BlindSRTeacher"
                )
        ours, theirs = (F.log_softmax(vector / self.temperature, 1) for vector in (student, teacher))
        return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
