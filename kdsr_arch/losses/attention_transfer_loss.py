"""Attention transfer: normalised maps of where a layer is active."""

from __future__ import annotations

from torch import Tensor

from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.losses.maps import CRITERIA, choose, pool_larger, require_map, unit
from kdsr_arch.registry import LOSS_REGISTRY


def attention_map(x: Tensor, power: float = 2, absolute: bool = True, eps: float = 1e-6) -> Tensor:
    """``M / (|M|_2 + eps)`` over H and W with ``M = sum_c |x|^power``: (N, C, H, W) to (N, H, W)."""
    m = (x.abs() if absolute else x).pow(power).sum(1)
    return unit(m, (1, 2), eps)


@LOSS_REGISTRY.register()
class ATLoss(DistillLoss):
    """Distance between normalised attention maps (Zagoruyko and Komodakis, ICLR 2017).

    Channel counts may differ; of two sizes the larger map is average-pooled first. The distance is the mean over
    positions, of squares by default; FAKD's variant is ``criterion: l1``.

    Args:
        power: p of ``sum_c |x|^p``.
        absolute: False sums signed powers, as a widely used implementation does (it matters for odd p).
        criterion: 'l2' or 'l1'.
        eps: added to the norm.
    """

    align_channels = False
    align_size = False

    def __init__(self, power: float = 2, absolute: bool = True, criterion: str = "l2", eps: float = 1e-6) -> None:
        super().__init__()
        self.power, self.absolute, self.eps = power, absolute, eps
        self.criterion = choose("ATLoss", "criterion", criterion, tuple(CRITERIA))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        maps = pool_larger(require_map("ATLoss", student), require_map("ATLoss", teacher))
        s, t = (attention_map(m, self.power, self.absolute, self.eps) for m in maps)
        return CRITERIA[self.criterion](s, t)
