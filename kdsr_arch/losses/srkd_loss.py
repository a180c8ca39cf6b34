"""SRKD: compare one-channel statistics of the feature maps."""

from __future__ import annotations

from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.losses.base import CRITERIA, DistillLoss, choose, require_map
from kdsr_arch.registry import LOSS_REGISTRY

STATISTICS = ("mean_pow", "pow_mean", "max", "min")
NORMALISATIONS = ("none", "mean", "std")


def channel_statistic(x: Tensor, statistic: str = "mean_pow", power: int = 2) -> Tensor:
    """Reduce a feature map (N, C, H, W) over its channels to (N, H, W).

    Args:
        x: the feature map.
        statistic: 'mean_pow' = (mean_c x)^power, 'pow_mean' = mean_c(x^power), 'max', 'min'.
        power: a positive integer, used by the first two.
    """
    if statistic == "max":
        return x.amax(1)
    if statistic == "min":
        return x.amin(1)
    return x.mean(1).pow(power) if statistic == "mean_pow" else x.pow(power).mean(1)


def normalise_statistic(m: Tensor, normalisation: str) -> Tensor:
    """Take the scale out of a statistic (N, H, W): divide each image's by its mean magnitude or by its deviation."""
    if normalisation == "none":
        return m
    scale = m.abs().mean((1, 2), keepdim=True) if normalisation == "mean" else m.std((1, 2), keepdim=True)
    return m / (scale + 1e-8)


@LOSS_REGISTRY.register()
class SRKDLoss(DistillLoss):
    """Distance between channel statistics of student and teacher (Gao et al., ACCV 2018).

    The channel counts may differ. The published best is (mean)^2, the default. The statistic depends on the
    features' scale: with a teacher of another family than the student's, ``normalisation`` takes the scale out
    (ours, not the paper's).

    Args:
        statistic: 'mean_pow' (the paper's (mean)^p), 'pow_mean' (mean of p-th powers), 'max' or 'min'.
        power: p, a positive integer.
        criterion: 'l2' (mean squared error; from memory of the paper) or 'l1'.
        normalisation: 'none', or divide each image's statistic by its 'mean' magnitude or its 'std'.
    """

    align_channels = False

    def __init__(
        self, statistic: str = "mean_pow", power: int = 2, criterion: str = "l2", normalisation: str = "none"
    ) -> None:
        super().__init__()
        self.statistic = choose("SRKDLoss", "statistic", statistic, STATISTICS)
        self.criterion = choose("SRKDLoss", "criterion", criterion, tuple(CRITERIA))
        self.normalisation = choose("SRKDLoss", "normalisation", normalisation, NORMALISATIONS)
        if isinstance(power, bool) or not isinstance(power, int) or power < 1:
            raise UserError(f"SRKDLoss: power must be a positive integer, not {power!r}")
        self.power = power

    def _reduce(self, x: Tensor) -> Tensor:
        return normalise_statistic(
            channel_statistic(require_map("SRKDLoss", x), self.statistic, self.power), self.normalisation
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        return CRITERIA[self.criterion](self._reduce(student), self._reduce(teacher))
