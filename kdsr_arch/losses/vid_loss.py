"""Variational information distillation: VID's and PISR's losses are presets of one implementation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import DistillLoss, as_maps, pool_larger
from kdsr_arch.registry import LOSS_REGISTRY


def pointwise_net(widths: Sequence[int], activation: str, bias: bool) -> nn.Sequential:
    """Make 1x1 convolutions of these widths with an activation ('relu' or one-parameter 'prelu') between them."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        if i:
            layers.append(nn.ReLU() if activation == "relu" else nn.PReLU())
        layers.append(nn.Conv2d(widths[i], widths[i + 1], 1, bias=bias))
    return nn.Sequential(*layers)


class VariationalEstimator(nn.Module):
    """Location and spread of a teacher's feature, estimated from a student's.

    Args:
        student_channels, teacher_channels: widths of the two maps.
        spread: what one spread stands for: 'element' of (C, H, W), 'channel', 'position' or the whole 'layer'.
        predicted: True: a network reads the spread off the student's feature; False: it is a free parameter
            (for 'channel' and 'layer').
        depth: number of 1x1 convolutions of the location network.
        activation: 'relu' or 'prelu'.
        bias: whether the location network's convolutions have biases.
        hidden: width of the hidden layers.
        initial: start value of a free spread before the final scaling, through softplus.
    """

    def __init__(
        self, student_channels: int, teacher_channels: int, *, spread: str, predicted: bool, depth: int,
        activation: str, bias: bool, hidden: int, initial: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.spread = spread
        self.mean = pointwise_net([student_channels, *[hidden] * (depth - 1), teacher_channels], activation, bias)
        width = teacher_channels if spread in ("element", "channel") else 1
        self.var: nn.Sequential | None = None
        self.log_scale: nn.Parameter | None = None
        if predicted:
            self.var = pointwise_net([student_channels, hidden, width], activation, True)
        else:
            self.log_scale = nn.Parameter(torch.full((width,), math.log(math.expm1(initial))))

    def forward(self, student: Tensor) -> tuple[Tensor, Tensor]:
        """Map student features (N, C', H, W) to location (N, C, H, W) and positive spread (broadcastable to it)."""
        if self.var is None:
            assert self.log_scale is not None
            return self.mean(student), F.softplus(self.log_scale)[None, :, None, None]
        raw = self.var(student)
        if self.spread in ("channel", "layer"):
            raw = raw.mean((2, 3), keepdim=True)
        return self.mean(student), F.softplus(raw)


@LOSS_REGISTRY.register()
class VariationalLoss(DistillLoss):
    """Negative log-likelihood of the teacher's feature under a distribution that the student's feature predicts.

    With location mu and spread b (a variance where Gaussian), after ``b = spread_scale * softplus(raw) + eps``:
    Gaussian ``log(b)/2 + (mu - t)^2 / (2 b)``, Laplace ``log(2 b) + |mu - t| / b``; the mean over all elements,
    summed over the layers. Sees all its layers at once, one estimator each; the larger of two sizes is average-pooled.

    Args:
        distribution: 'gaussian' or 'laplace'.
        spread: 'element', 'channel', 'position' or 'layer'.
        predicted: the spread is predicted from the student's feature, else learned as a free parameter.
        spread_scale: factor on the softplus of the raw spread.
        eps: added to the spread.
        initial: start value of a free spread.
        depth: layers of the location network.
        activation: between those layers.
        bias: whether they have one.
        hidden: their width; None for the teacher's.
        constant: add PISR's constant ``C log(2 pi) / 2`` (no gradient; the value equals the published one).
    """

    about = About(
        "variational information, freely composed",
        "Ahn et al., CVPR 2019",
        "mean (log(b) / 2 + (μ - F_T)² / (2 b)), μ and b predicted from F_S",
        "{at: f_lr, loss_weight: {balance: 0.1}}",
        ratio="as balanced",
    )

    align_channels = False
    align_size = False
    multi = True

    def __init__(
        self,
        distribution: str = "gaussian",
        spread: str = "channel",
        predicted: bool = False,
        spread_scale: float = 1.0,
        eps: float = 1e-5,
        initial: float = 5.0,
        depth: int = 3,
        activation: str = "relu",
        bias: bool = False,
        hidden: int | None = None,
        constant: bool = False,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        self.distribution = one_of(owner, "distribution", distribution, ("gaussian", "laplace"))
        self.spread = one_of(owner, "spread", spread, ("element", "channel", "position", "layer"))
        one_of(owner, "activation", activation, ("relu", "prelu"))
        if not predicted and spread in ("element", "position"):
            raise UserError(f"{owner}: spread '{spread}' depends on the input's size and must be predicted: true")
        self.spread_scale, self.eps, self.constant, self.hidden = spread_scale, eps, constant, hidden
        self.settings: dict[str, Any] = {
            "spread": spread, "predicted": predicted, "depth": depth, "activation": activation, "bias": bias,
            "initial": (initial - eps) / spread_scale,
        }  # fmt: skip
        self.estimators = nn.ModuleList()

    def setup(self, student_shapes: Sequence[Any], teacher_shapes: Sequence[Any]) -> None:
        owner = type(self).__name__
        for s, t in zip(student_shapes, teacher_shapes, strict=True):
            for shape in (s, t):
                if len(shape) != 4 or not isinstance(shape[0], int):
                    raise UserError(f"{owner} needs maps (N, C, H, W), but a tap recorded shape {tuple(shape)}")
            hidden = self.hidden or t[1]
            self.estimators.append(VariationalEstimator(s[1], t[1], hidden=hidden, **self.settings))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """Return the sum over the layers, each a pair of maps (B, C, H, W)."""
        owner = type(self).__name__
        s, t = as_maps(owner, student), as_maps(owner, teacher)
        if len(self.estimators) != len(s):
            raise RuntimeError(f"{owner}: setup() built {len(self.estimators)} estimators, but got {len(s)} layers")
        losses = []
        for estimator, *maps in zip(self.estimators, s, t, strict=True):
            ours, theirs = pool_larger(*maps)
            location, spread = estimator(ours)
            b = self.spread_scale * spread + self.eps
            if self.distribution == "laplace":
                loss = (torch.log(2 * b) + (location - theirs).abs() / b).mean()
            else:
                loss = 0.5 * (torch.log(b) + (location - theirs).square() / b).mean()
            losses.append(loss + location.shape[1] * math.log(2 * math.pi) / 2 if self.constant else loss)
        return sum(losses[1:], losses[0])


@LOSS_REGISTRY.register()
class VIDLoss(VariationalLoss):
    """VID (Ahn et al., CVPR 2019): three bias-free 1x1 convolutions, Gaussian, a free variance of 5 per channel.

    Args:
        hidden: width of the hidden layers; the teacher's by default.
        initial: variance at the start.
    """

    about = About(
        "VID: variational information",
        "Ahn et al., CVPR 2019",
        "mean (log(b) / 2 + (μ(F_S) - F_T)² / (2 b)), b one a channel",
        "{at: f_lr, loss_weight: {balance: 0.1}}",
        ratio="0.15 to 0.18 as balanced (pisr_x4)",
        options="train_vid.yml",
    )

    def __init__(self, hidden: int | None = None, initial: float = 5.0) -> None:
        super().__init__(hidden=hidden, initial=initial)


@LOSS_REGISTRY.register()
class PISRLoss(VariationalLoss):
    """PISR's distillation term (Lee et al., ECCV 2020): location and spread from two small networks.

    The published weight is 1e-6; with the mean over elements its gradient is then far below the reconstruction's.

    Args:
        distribution: 'laplace' (the released setting; spread scaled by 0.1) or 'gaussian' (variance scaled by 0.001).
        spread: 'element' (published), 'channel', 'position' or 'layer'.
        hidden: width of the hidden layers; the teacher's by default.
    """

    about = About(
        "PISR: a privileged teacher",
        "Lee et al., ECCV 2020",
        "mean (log(2 b) + |μ - F_T| / b), μ and b predicted from F_S",
        "{at: expanding, loss_weight: 1e-6}",
        ratio="3e-5; 0.15 where balanced at 0.1 (pisr_x4)",
        options="train_pisr.yml",
    )

    def __init__(self, distribution: str = "laplace", spread: str = "element", hidden: int | None = None) -> None:
        scale = 0.1 if distribution == "laplace" else 0.001
        super().__init__(
            distribution, spread, predicted=True, spread_scale=scale, eps=1e-8, depth=2, activation="prelu",
            bias=True, hidden=hidden, constant=True,
        )  # fmt: skip
