"""FAKD: compare the affinities inside feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.affinity import (
    channel_affinity,
    check_memory,
    instance_affinity,
    pool_map,
    spatial_affinity,
    spatial_affinity_loss,
    tile_size,
)
from kdsr_arch.losses.base import CRITERIA, DistillLoss, require_map
from kdsr_arch.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class FAKDLoss(DistillLoss):
    """Distance between affinity matrices of student and teacher features (He et al., ICIP 2020).

    Spatial affinity (the paper's choice): channel vectors of all positions, divided by (their L2 norm + eps), and
    the HW x HW matrix of their products. Computed in tiles: exact, and a 256x256 map of 64 channels trains within
    0.2 GiB where the plain formula needs 64 GiB. Vectors that are exactly zero get a zero gradient.

    Weights: the published 10 belongs to images in 0..255 with the pixel loss in the same range; in [0, 1] the
    equivalent is 10/255 = 0.0392.

    Args:
        affinity: 'spatial' (HW x HW; channel counts may differ), 'channel' (C x C; sizes may differ),
            'instance' (batch x batch; needs a batch of two or more).
        criterion: 'l1' (the paper) or 'l2'.
        pool: side of the windows a map is pooled by before a spatial affinity; 1 is exact, more is approximate.
        pool_mode: 'avg' or 'max'.
        tile: side of the tiles of the spatial affinity, 'auto', or 'none' for the plain formula.
        memory_gib: most memory for affinity matrices; a setting that needs more is refused with the arithmetic.
        eps: added to norms.
    """

    about = About(
        "FAKD: affinities",
        "He et al., ICIP 2020",
        "mean |A_S - A_T|, A = F̂ᵀ F̂, HW x HW, F̂ of unit channel vectors",
        "{at: [fakd_1, fakd_2, fakd_3], loss_weight: 0.0392}",
        ratio="0.44 to 0.52 (fakd_x4)",
        options="train_fakd.yml",
    )

    def __init__(
        self,
        affinity: str = "spatial",
        criterion: str = "l1",
        pool: int = 1,
        pool_mode: str = "avg",
        tile: int | str = "auto",
        memory_gib: float = 1.5,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        self.affinity = one_of("FAKDLoss", "affinity", affinity, ("spatial", "channel", "instance"))
        self.criterion = one_of("FAKDLoss", "criterion", criterion, CRITERIA)
        self.pool_mode = one_of("FAKDLoss", "pool_mode", pool_mode, ("avg", "max"))
        if not isinstance(pool, int) or pool < 1:
            raise UserError(f"FAKDLoss: pool must be a positive integer, not {pool!r}")
        if tile not in ("auto", "none") and not (isinstance(tile, int) and tile > 0):
            raise UserError(f"FAKDLoss: tile must be 'auto', 'none' or a positive integer, not {tile!r}")
        self.pool, self.tile, self.memory_gib, self.eps = pool, tile, memory_gib, eps
        self.align_channels = affinity == "channel"
        self.align_size = affinity == "spatial"

    def setup(self, student_shapes: Sequence[Any], teacher_shapes: Sequence[Any]) -> None:
        for shape in student_shapes:
            if self.affinity == "spatial" and len(shape) == 4:
                self._check(shape)

    def _check(self, shape: Sequence[int]) -> None:
        n, _, h, w = shape
        tile = None if self.tile == "none" else tile_size(n, self.tile)
        check_memory("FAKDLoss", n, -(-h // self.pool), -(-w // self.pool), tile, self.memory_gib)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        """Return the distance of the affinities of two maps (B, C, H, W)."""
        s, t = require_map("FAKDLoss", student), require_map("FAKDLoss", teacher)
        if self.affinity == "instance":
            return CRITERIA[self.criterion](instance_affinity(s), instance_affinity(t))
        if self.affinity == "spatial":
            self._check(s.shape)
            s, t = pool_map(s, self.pool, self.pool_mode), pool_map(t, self.pool, self.pool_mode)
            if self.tile != "none":
                return spatial_affinity_loss(s, t, self.criterion, self.tile, self.eps)
        matrix = spatial_affinity if self.affinity == "spatial" else channel_affinity
        return CRITERIA[self.criterion](matrix(s, self.eps), matrix(t, self.eps))
