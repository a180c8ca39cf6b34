"""RKD: keep distances and angles between the samples of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.losses.maps import unit
from kdsr_arch.registry import LOSS_REGISTRY


def pair_distances(x: Tensor) -> Tensor:
    """Euclidean distances between the rows of x (N, D), divided by the mean of the positive ones: (N, N)."""
    squares = x.pow(2).sum(1)
    squared = (squares[:, None] + squares[None, :] - 2 * x @ x.T).clamp(min=1e-12)
    distance = squared.sqrt() * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    return distance / distance[distance > 0].mean()


def triple_cosines(x: Tensor) -> Tensor:
    """Cosines of the angles at sample i between samples j and k, rows of x (N, D): (N, N, N)."""
    directions = unit(x[None, :, :] - x[:, None, :], 2)
    return directions @ directions.transpose(1, 2)


@LOSS_REGISTRY.register()
class RKDLoss(DistillLoss):
    """Smooth L1 between pairwise distances and between angles of the samples (Park et al., CVPR 2019).

    Each sample's features are flattened, so channels and sizes may differ. With a batch of one there are no
    pairs and the loss is 0: use a batch of two or more (three for angles).

    Args:
        distance_weight: weight of the distances; the paper's 25.
        angle_weight: weight of the angles; the paper's 50.
    """

    align_channels = False
    align_size = False

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        s, t = student.flatten(1), teacher.flatten(1)
        loss = s.sum() * 0  # stays in the graph where a weight is 0 or the batch has no pairs
        if len(s) > 1 and self.distance_weight:
            loss = loss + self.distance_weight * F.smooth_l1_loss(pair_distances(s), pair_distances(t))
        if len(s) > 1 and self.angle_weight:
            loss = loss + self.angle_weight * F.smooth_l1_loss(triple_cosines(s), triple_cosines(t))
        return loss
