"""The spatial term of space-time distillation: attention maps of the student's and the teacher's features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdsr_arch.errors import one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import NORMS, DistillLoss
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import LOSS_REGISTRY

MAPS = ("sum_square", "sum_abs", "max_square")
EPS = 1e-8


class _ChannelSum(torch.autograd.Function):
    """sum_c |F_c|^p, p = 1 or 2: reads F once forward and once backward, and stores nothing of its size.

    Features of HR size are the largest tensors of a training step, so temporary copies of them are what costs.
    """

    @staticmethod
    def forward(ctx: Any, feature: Tensor, power: int) -> Tensor:
        """Return the sum over the channels of a feature (B, C, H, W) to that power: (B, H, W)."""
        ctx.save_for_backward(feature)
        ctx.power = power
        if feature.device.type != "cpu" or not feature.is_contiguous():
            norm = torch.linalg.vector_norm(feature, power, dim=1, dtype=_wide(feature))
            return norm if power == 1 else norm.square_()
        # Plane by plane into a sum that stays in the cache: ten times as fast as the reduction above, which on a CPU
        # is fast only where channels lie next to one another.
        total = feature.new_zeros(feature.shape[:1] + feature.shape[2:], dtype=_wide(feature))
        for plane in feature.unbind(1):
            plane = plane.to(total.dtype)
            total = total.addcmul_(plane, plane) if power == 2 else total.add_(plane.abs())
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (feature,) = ctx.saved_tensors
        grad = grad.unsqueeze(1)
        if ctx.power == 1:
            return torch.sgn(feature).mul_(grad.to(feature.dtype)), None
        return torch.mul(feature, 2 * grad, out=torch.empty_like(feature)), None


def attention_map(feature: Tensor, kind: str = "sum_square") -> Tensor:
    """Return the attention map M (F, H, W) of a feature (F, C, H, W), in float32 (float64 stays).

    Args:
        kind: 'sum_square' sum_c |F_c|^2 (the paper's choice), 'sum_abs' sum_c |F_c|, 'max_square' max_c |F_c|^2.
    """
    if kind == "max_square":
        return torch.linalg.vector_norm(feature, float("inf"), dim=1, dtype=_wide(feature)).square()
    return _ChannelSum.apply(feature, 1 if kind == "sum_abs" else 2)


def _wide(feature: Tensor) -> torch.dtype:
    return torch.promote_types(feature.dtype, torch.float32)


@LOSS_REGISTRY.register()
class SpatialAttentionLoss(DistillLoss):
    """L_SD = mean over the clip's frames of ||M(F_S) - M(F_T)||^2 (Xiao et al., CVPR 2021, spatial distillation).

    ||.||^2 is the *mean* over the pixels of the squared difference with ``reduction='mean'``, so that the weight does
    not depend on the crop; with 'sum' it is the sum over the pixels, the squared L2 norm as printed. Either way it is
    averaged over frames and batch. The paper states no normalization; without one, few energetic pixels dominate.
    Secondary sources read the norm without the square: ``criterion: norm``.

    Student (F, C_s, H, W), teacher (F, C_t, H, W): channels may differ, and are summed away.

    Args:
        map: 'sum_square' (the paper's), 'sum_abs' or 'max_square'; see :func:`attention_map`.
        normalize: 'none' (as printed); 'teacher_mean': both maps divided by the mean of the teacher's over the batch;
            'own_mean': each divided by its own mean, which compares where the energy is and not how much.
        criterion: 'l2' (the paper's; the mean squared difference), 'norm' (its root, of each frame) or 'l1'.
        reduction: 'mean' or 'sum' over the pixels.
    """

    about = About(
        "STD: space in video",
        "Xiao et al., CVPR 2021",
        "mean (M(F_S) - M(F_T))², M = Σ_c F_c²",
        "{at: f_sr, loss_weight: {balance: 0.1}}",
        ratio="0.13 as balanced, 0.007 to 0.03 as published (std_vespcn)",
        options="train_std.yml",
    )

    align_channels = False
    native_dtype = True

    def __init__(
        self, map: str = "sum_square", normalize: str = "none", criterion: str = "l2", reduction: str = "mean"
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.map = one_of(name, "map", map, MAPS)
        self.normalize = one_of(name, "normalize", normalize, ("none", "teacher_mean", "own_mean"))
        self.criterion = NORMS[one_of(name, "criterion", criterion, NORMS)]
        self.power = 0.5 if criterion == "norm" else 1.0  # of the number of pixels, between the mean and the sum
        self.reduction = one_of(name, "reduction", reduction, ("mean", "sum"))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        """Return a scalar; see the class."""
        ours, theirs = attention_map(student, self.map), attention_map(teacher, self.map)
        if self.normalize == "teacher_mean":
            scale = distributed.averaged(theirs.mean()) + EPS
            ours, theirs = ours / scale, theirs / scale
        elif self.normalize == "own_mean":
            ours, theirs = ours / (ours.mean() + EPS), theirs / (theirs.mean() + EPS)
        loss = self.criterion(ours, theirs)
        return loss * (ours.shape[-2] * ours.shape[-1]) ** self.power if self.reduction == "sum" else loss
