"""FitNet hints: features compared element by element."""

from __future__ import annotations

from torch import Tensor

from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.losses.maps import CRITERIA, choose
from kdsr_arch.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class FitNetLoss(DistillLoss):
    """Mean squared (or absolute) difference of features (Romero et al., ICLR 2015).

    The regressor of the paper is the term's adapter: a train-only 1x1 convolution where the channel counts differ.

    Args:
        criterion: 'l2' (the paper) or 'l1'.
    """

    def __init__(self, criterion: str = "l2") -> None:
        super().__init__()
        self.criterion = choose("FitNetLoss", "criterion", criterion, tuple(CRITERIA))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        return CRITERIA[self.criterion](student, teacher)
