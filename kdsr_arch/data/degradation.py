"""Low-resolution frames made on the fly from high-resolution ones."""

from __future__ import annotations

import numpy as np

from kdsr_arch.data.augment import Crop, check_crop
from kdsr_arch.data.sources import FrameSource, WrappedSource
from kdsr_arch.errors import UserError
from kdsr_arch.ops.bicubic import imresize_uint8
from kdsr_arch.ops.degrade import bd_downsample

# LR pixels around a crop that its values depend on: 2 for the bicubic kernel (4 LR pixels wide); the 13x13 Gaussian
# reaches 6 HR pixels, 3 LR pixels at scale 2. One more keeps the crop clear of rounding at the crop's own border.
CONTEXT = 4


def mod_crop(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """Return the largest (H, W) within ``size`` that are multiples of ``scale``."""
    return size[0] - size[0] % scale, size[1] - size[1] % scale


class DegradedSource(WrappedSource):
    """LR frames of a source of HR frames, whose right and bottom are cut to multiples of the scale.

    The LR of a crop is, bit for bit, that crop of the LR of the whole frame: crops are made with enough context.

    Args:
        source: HR frames.
        scale: integer factor.
        kind: 'BI', MATLAB's bicubic on uint8 (rows rounded before columns), or 'BD', Gaussian blur of sigma 1.6 and
            every ``scale``-th pixel.
        border: what MATLAB assumes outside the frame, 'symmetric' (newer) or 'replicate' (older); BI only.
    """

    def __init__(self, source: FrameSource, scale: int, kind: str = "BI", border: str = "symmetric") -> None:
        if kind not in ("BI", "BD"):
            raise UserError(f"degradation '{kind}' is unknown; use 'BI', 'BD', or 'none' with a dataroot_lq")
        super().__init__(source)
        self.scale, self.kind, self.border = scale, kind, border

    def size(self, key: str) -> tuple[int, int]:
        height, width = self.source.size(key)
        return height // self.scale, width // self.scale

    def detached(self, key: str) -> DegradedSource:
        return DegradedSource(self.source.detached(key), self.scale, self.kind, self.border)

    def degrade(self, frame: np.ndarray) -> np.ndarray:
        """Make the LR of a whole uint8 (H, W, 3) frame whose sides are multiples of the scale."""
        if self.kind == "BD":
            return bd_downsample(frame, self.scale)
        return imresize_uint8(frame, 1 / self.scale, border=self.border)

    def get(self, key: str, crop: Crop | None = None) -> np.ndarray:
        return self.get_pair(key, crop)[0]

    def get_pair(self, key: str, crop: Crop | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return (LR, HR) under an LR crop, from one read of the HR frame."""
        height, width = self.size(key)
        crop = crop or Crop(0, 0, height, width)
        check_crop(crop, (height, width), self.where(key))
        top, left = max(0, crop.top - CONTEXT), max(0, crop.left - CONTEXT)
        bottom = min(height, crop.top + crop.height + CONTEXT)
        right = min(width, crop.left + crop.width + CONTEXT)
        wide = Crop(top, left, bottom - top, right - left)
        frame = self.source.get(key, wide.scaled(self.scale))
        inner = Crop(crop.top - top, crop.left - left, crop.height, crop.width)
        return inner.of(self.degrade(frame)), inner.scaled(self.scale).of(frame)
