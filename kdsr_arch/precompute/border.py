"""What a crop's own border does: how far a teacher run on a crop is from the crop of the teacher's whole image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdsr_arch.data.store.teacher_store import OUTPUT
from kdsr_arch.log import get_logger
from kdsr_arch.precompute.live import LiveTeacher


@dataclass(frozen=True)
class Probe:
    """What a crop's own border does: the teacher on a crop against the crop of the teacher on the whole image.

    Attributes:
        patch: LR side of the crop.
        all_db, inner_db: PSNR between the two over the crop, and over its inner half (a quarter of each side cut off).
    """

    patch: int
    all_db: float
    inner_db: float

    @property
    def looks_further(self) -> bool:
        """Whether crops of stored whole images are not what live training would see, even far from their border."""
        return self.inner_db < _LOCAL_DB

    def __str__(self) -> str:
        said = (
            f"crops of {self.patch} LR pixels: the teacher on a crop alone is {self.all_db:.1f} dB from the stored "
            f"crop of the whole image, {self.inner_db:.1f} dB in its inner half. The stored one has seen what lies "
            "beyond the crop's border"
        )
        return f"{said}. {_ADVICE}" if self.looks_further else said


_LOCAL_DB = 60.0  # fp16 alone gives about 80 dB
_ADVICE = (
    "Its output depends on the image beyond the crop and its border: stored whole images do not give the loss of live "
    "training. Store crops restored alone instead, exact everywhere: kdsr cache-teacher ... --crops 32"
)


def warn_of_border(probe: Probe | None) -> None:
    """At the first image, before hours are spent on the others."""
    if probe is not None and probe.looks_further:
        get_logger().warning(str(probe))


def measure_border(teacher: LiveTeacher, given: Tensor, whole: np.ndarray, patch: int) -> Probe | None:
    """Compare the two on the middle of an image; None where the crop is the whole image.

    Args:
        given: (n, C, h, w); of HR size where the teacher is privileged.
        whole: the teacher's output on it, (C, H, W).
        patch: LR side of the crop, 0 for half the image.
    """
    zoom = teacher.zoom
    height, width = (side // zoom for side in given.shape[-2:])
    side = min(patch or min(height, width) // 2, height, width)
    if side == height == width:
        return None
    top, left, scale = (height - side) // 2, (width - side) // 2, teacher.traits.scale
    crop = given[..., top * zoom : (top + side) * zoom, left * zoom : (left + side) * zoom]
    alone = teacher(crop)[OUTPUT]
    held = torch.from_numpy(whole.astype(np.float16).astype(np.float32))
    held = held[:, top * scale : (top + side) * scale, left * scale : (left + side) * scale]
    error = (alone - held).double().square()
    margin = side * scale // 4
    inner = error[:, margin:-margin, margin:-margin]
    return Probe(side, *(float(-10 * torch.log10(part.mean().clamp(min=1e-12))) for part in (error, inner)))
