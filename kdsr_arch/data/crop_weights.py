"""Where the crops of an image are drawn, as a map says: half of them anywhere, half the likelier the brighter it is."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kdsr_arch.data.augment import Crop
from kdsr_arch.data.sources import open_source
from kdsr_arch.errors import UserError

_ANYWHERE = 0.5  # of the crops; else what the map leaves out would be unlearned
_KEPT = 256  # maps in memory


class CropWeights:
    """A folder or store of maps, one for each LR image, of its name and size.

    Args:
        path: the folder or store.
        patch: side of a crop in LR pixels.

    Raises:
        UserError: there is no such folder or store.
    """

    def __init__(self, path: str | Path, patch: int) -> None:
        self.source, self.patch = open_source(Path(path)), patch
        self.keys = set(self.source.keys())
        self._chances = lru_cache(_KEPT)(self._read)

    def check(self, key: str, size: tuple[int, int]) -> None:
        """Raise UserError unless there is a map for an image of an LR size."""
        if key not in self.keys:
            raise UserError(f"{self.source.name}: no map for image '{key}'; crop_weights needs one for each")
        if self.source.size(key) != size:
            height, width = self.source.size(key)
            raise UserError(f"{self.source.where(key)}: is {height}x{width}, but its image is {size[0]}x{size[1]}")

    def draw(self, rng: np.random.Generator, key: str) -> Crop:
        """Draw a crop of an image."""
        chances = self._chances(key)
        height, width = (side - self.patch + 1 for side in self.source.size(key))
        place = int(rng.integers(height * width))
        if rng.random() >= _ANYWHERE:
            place = min(int(np.searchsorted(chances, rng.random() * chances[-1], side="right")), height * width - 1)
        return Crop(place // width, place % width, self.patch, self.patch)

    def _read(self, key: str) -> NDArray[np.float32]:
        """Return the sums of the map under each place of a crop, added up over the places."""
        sums, patch = cv2.integral(self.source.get(key)[..., 0].astype(np.float64)), self.patch
        under = sums[patch:, patch:] - sums[:-patch, patch:] - sums[patch:, :-patch] + sums[:-patch, :-patch]
        return np.cumsum(under + 1e-6 * patch**2).astype(np.float32)
