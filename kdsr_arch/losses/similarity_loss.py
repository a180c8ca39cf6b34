"""SP: keep the similarities between the samples of a batch."""

from __future__ import annotations

from torch import Tensor

from kdsr_arch.losses.affinity import instance_affinity
from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.losses.maps import CRITERIA, choose
from kdsr_arch.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class SPLoss(DistillLoss):
    """Mean squared difference of row-normalised batch Gram matrices (Tung and Mori, ICCV 2019).

    Each sample's features are flattened, so channels and sizes may differ. With a batch of one the Gram matrix is
    the constant 1 and the loss 0: use a batch of two or more.

    Args:
        criterion: 'l2' (the paper) or 'l1' (FAKD's instance affinity).
    """

    align_channels = False
    align_size = False

    def __init__(self, criterion: str = "l2") -> None:
        super().__init__()
        self.criterion = choose("SPLoss", "criterion", criterion, tuple(CRITERIA))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        return CRITERIA[self.criterion](instance_affinity(student), instance_affinity(teacher))
