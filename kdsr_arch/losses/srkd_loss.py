"""SRKD: compare one-channel statistics of the feature maps."""

from __future__ import annotations

from torch import Tensor

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import CRITERIA, DistillLoss, require_map
from kdsr_arch.registry import LOSS_REGISTRY


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


@LOSS_REGISTRY.register()
class SRKDLoss(DistillLoss):
    """Distance between channel statistics of student and teacher (Gao et al., ACCV 2018).

    The channel counts may differ. The published best is (mean)^2, the default. The statistic depends on the
    features' scale: with a teacher of another family than the student's, ``normalization`` takes the scale out
    (ours, not the paper's).

    Args:
        statistic: 'mean_pow' (the paper's (mean)^p), 'pow_mean' (mean of p-th powers), 'max' or 'min'.
        power: p, a positive integer.
        criterion: 'l2' (mean squared error; from memory of the paper) or 'l1'.
        normalization: 'none', or divide each image's statistic by its 'mean' magnitude or its 'std'.
    """

    about = About(
        "SRKD: statistics over channels",
        "Gao et al., ACCV 2018",
        "mean (m_S - m_T)², m = (mean_c F)²",
        "{at: [srkd_1, srkd_2, srkd_3], loss_weight: 1 to 3}",
        ratio="0.004 to 0.008 (srkd_x3)",
        options="train_srkd.yml",
    )

    align_channels = False

    def __init__(
        self, statistic: str = "mean_pow", power: int = 2, criterion: str = "l2", normalization: str = "none"
    ) -> None:
        super().__init__()
        self.statistic = one_of("SRKDLoss", "statistic", statistic, ("mean_pow", "pow_mean", "max", "min"))
        self.criterion = one_of("SRKDLoss", "criterion", criterion, CRITERIA)
        self.normalization = one_of("SRKDLoss", "normalization", normalization, ("none", "mean", "std"))
        if isinstance(power, bool) or not isinstance(power, int) or power < 1:
            raise UserError(f"SRKDLoss: power must be a positive integer, not {power!r}")
        self.power = power

    def _reduce(self, x: Tensor) -> Tensor:
        m = channel_statistic(require_map("SRKDLoss", x), self.statistic, self.power)
        if self.normalization == "none":
            return m
        deviation = self.normalization == "std"
        scale = m.std((1, 2), keepdim=True) if deviation else m.abs().mean((1, 2), keepdim=True)
        return m / (scale + 1e-8)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        return CRITERIA[self.criterion](self._reduce(student), self._reduce(teacher))
