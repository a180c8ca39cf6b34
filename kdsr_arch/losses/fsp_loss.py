"""FSP: Gram matrices between neighbouring layers, the flow of the solution procedure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.losses.maps import CRITERIA, as_maps, choose, pool_larger
from kdsr_arch.registry import LOSS_REGISTRY


def flow_matrix(first: Tensor, second: Tensor) -> Tensor:
    """``F1 F2^T / (H W)`` of maps (N, C1, H, W) and (N, C2, H, W), the larger average-pooled: (N, C1, C2)."""
    a, b = pool_larger(first, second)
    return a.flatten(2) @ b.flatten(2).transpose(1, 2) / (a.shape[-2] * a.shape[-1])


@LOSS_REGISTRY.register()
class FSPLoss(DistillLoss):
    """Distance between the FSP matrices of consecutive taps, summed over the pairs (Yim et al., CVPR 2017).

    Needs two taps or more on each side, listed in the order of the forward pass; sizes may differ between taps and
    between student and teacher.

    Args:
        criterion: 'l2' (the paper) or 'l1' (FAKD's code); the mean over a matrix and the batch.
    """

    align_size = False
    multi = True

    def __init__(self, criterion: str = "l2") -> None:
        super().__init__()
        self.criterion = choose("FSPLoss", "criterion", criterion, tuple(CRITERIA))

    def setup(self, student_shapes: Sequence[Any], teacher_shapes: Sequence[Any]) -> None:
        if len(student_shapes) < 2:
            raise UserError("FSPLoss compares neighbouring layers: its term must tap two layers or more on each side")

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        s, t = as_maps("FSPLoss", student), as_maps("FSPLoss", teacher)
        self.setup(s, t)
        distance = CRITERIA[self.criterion]
        losses = [distance(flow_matrix(*s[i : i + 2]), flow_matrix(*t[i : i + 2])) for i in range(len(s) - 1)]
        return sum(losses[1:], losses[0])
