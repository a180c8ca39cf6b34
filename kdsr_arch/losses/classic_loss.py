"""The classic distillation losses, as controls: attention transfer, FitNet hints, FSP, relational, similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.affinity import instance_affinity
from kdsr_arch.losses.base import CRITERIA, DistillLoss, as_maps, pool_larger, require_map, unit
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import LOSS_REGISTRY

_RMS_EPS = 1e-8


def attention_map(x: Tensor, power: float = 2, absolute: bool = True, eps: float = 1e-6) -> Tensor:
    """Return ``M / (|M|_2 + eps)`` over H and W with ``M = sum_c |x|^power``: (N, C, H, W) to (N, H, W)."""
    m = (x.abs() if absolute else x).pow(power).sum(1)
    return unit(m, (1, 2), eps)


@LOSS_REGISTRY.register()
class ATLoss(DistillLoss):
    """Distance between normalized attention maps (Zagoruyko and Komodakis, ICLR 2017).

    Channel counts may differ; of two sizes the larger map is average-pooled first. The distance is the mean over
    positions, of squares by default; FAKD's variant is ``criterion: l1``.

    Args:
        power: p of ``sum_c |x|^p``.
        absolute: False sums signed powers, as a widely used implementation does (it matters for odd p).
        criterion: 'l2' or 'l1'.
        eps: added to the norm.
    """

    about = About(
        "AT: attention maps",
        "Zagoruyko and Komodakis, ICLR 2017",
        "mean (Q_S / |Q_S|₂ - Q_T / |Q_T|₂)², Q = Σ_c |F_c|^p",
        "{at: f_lr, loss_weight: {balance: 0.1}}",
        ratio="as balanced",
    )

    align_channels = False
    align_size = False

    def __init__(self, power: float = 2, absolute: bool = True, criterion: str = "l2", eps: float = 1e-6) -> None:
        super().__init__()
        self.power, self.absolute, self.eps = power, absolute, eps
        self.criterion = one_of("ATLoss", "criterion", criterion, CRITERIA)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        maps = pool_larger(require_map("ATLoss", student), require_map("ATLoss", teacher))
        s, t = (attention_map(m, self.power, self.absolute, self.eps) for m in maps)
        return CRITERIA[self.criterion](s, t)


@LOSS_REGISTRY.register()
class FitNetLoss(DistillLoss):
    """Mean squared (or absolute) difference of feature maps (hints; Romero et al., ICLR 2015).

    The plainest feature distillation, the control of the cleverer ones. Maps (F, C, H, W) of any range. The regressor
    of the paper is the term's adapter: a train-only 1x1 convolution where the channel counts differ.

    Args:
        criterion: 'l2' (the paper) or 'l1'.
        normalize: 'none', or 'teacher_rms': both sides are divided by the teacher's root mean square over the batch.
    """

    about = About(
        "FitNet: hints",
        "Romero et al., ICLR 2015",
        "mean (r(F_S) - F_T)², r a 1x1 convolution where channels differ",
        "{at: f_lr, loss_weight: {balance: 0.1}}",
        ratio="as balanced",
    )

    def __init__(self, criterion: str = "l2", normalize: str = "none") -> None:
        super().__init__()
        self.criterion = one_of("FitNetLoss", "criterion", criterion, CRITERIA)
        self.normalize = one_of("FitNetLoss", "normalize", normalize, ("none", "teacher_rms"))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        """Compare two maps of one shape; see the class."""
        if self.normalize == "teacher_rms":
            scale = 1 / (distributed.averaged(teacher.square().mean()).sqrt() + _RMS_EPS)
            student, teacher = student * scale, teacher * scale
        return CRITERIA[self.criterion](student, teacher)


def flow_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Return ``F1 F2^T / (H W)`` of maps (N, C1, H, W) and (N, C2, H, W), the larger average-pooled: (N, C1, C2)."""
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

    about = About(
        "FSP: flow from layer to layer",
        "Yim et al., CVPR 2017",
        "Σ_i mean (G_i(S) - G_i(T))², G_i = F_i F_(i+1)ᵀ / (H W)",
        "{at: [block1, f_lr], loss_weight: {balance: 0.1}}",
        ratio="as balanced",
    )

    align_size = False
    multi = True

    def __init__(self, criterion: str = "l2") -> None:
        super().__init__()
        self.criterion = one_of("FSPLoss", "criterion", criterion, CRITERIA)

    def setup(self, student_shapes: Sequence[Any], teacher_shapes: Sequence[Any]) -> None:
        if len(student_shapes) < 2:
            raise UserError("FSPLoss compares neighboring layers: its term must tap two layers or more on each side")

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        s, t = as_maps("FSPLoss", student), as_maps("FSPLoss", teacher)
        self.setup(s, t)
        distance = CRITERIA[self.criterion]
        losses = [distance(flow_matrix(*s[i : i + 2]), flow_matrix(*t[i : i + 2])) for i in range(len(s) - 1)]
        return sum(losses[1:], losses[0])


def pair_distances(x: Tensor) -> Tensor:
    """Return Euclidean distances between the rows of x (N, D), divided by the mean of the positive ones: (N, N)."""
    squares = x.pow(2).sum(1)
    squared = (squares[:, None] + squares[None, :] - 2 * x @ x.T).clamp(min=1e-12)
    distance = squared.sqrt() * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    return distance / (distance.sum() / (distance > 0).sum())  # a selection would have a GPU waited for


def triple_cosines(x: Tensor) -> Tensor:
    """Return cosines of the angles at sample i between samples j and k, rows of x (N, D): (N, N, N)."""
    directions = unit(x[None, :, :] - x[:, None, :], 2)
    return directions @ directions.transpose(1, 2)


@LOSS_REGISTRY.register()
class RKDLoss(DistillLoss):
    """Smooth L1 between pairwise distances and between angles of the samples (Park et al., CVPR 2019).

    Each sample's features are flattened, so channels and sizes may differ. It needs a batch of
    three or more: of two, the one distance over the mean distance is always 1, and there is no angle.

    Args:
        distance_weight: weight of the distances; the paper's 25.
        angle_weight: weight of the angles; the paper's 50.
    """

    about = About(
        "RKD: relations between samples",
        "Park et al., CVPR 2019",
        "25 h(distances of S, of T) + 50 h(cosines of angles of S, of T), h the smooth L1",
        "{at: f_lr, loss_weight: {balance: 0.1}}",
        ratio="as balanced",
    )

    align_channels = False
    align_size = False
    least_samples = 3

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


@LOSS_REGISTRY.register()
class SPLoss(DistillLoss):
    """Mean squared difference of row-normalized batch Gram matrices (Tung and Mori, ICCV 2019).

    Each sample's features are flattened, so channels and sizes may differ. With a batch of one the Gram matrix is
    the constant 1 and the loss 0: use a batch of two or more.

    Args:
        criterion: 'l2' (the paper) or 'l1' (FAKD's instance affinity).
    """

    about = About(
        "SP: similarity of samples",
        "Tung and Mori, ICCV 2019",
        "mean (G_S - G_T)², G the row-normalized Gram matrix of the batch",
        "{at: f_lr, loss_weight: {balance: 0.1}}",
        ratio="as balanced",
    )

    align_channels = False
    align_size = False

    def __init__(self, criterion: str = "l2") -> None:
        super().__init__()
        self.criterion = one_of("SPLoss", "criterion", criterion, CRITERIA)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        return CRITERIA[self.criterion](instance_affinity(student), instance_affinity(teacher))
