"""Small images for tests, made on the spot."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw an image of random blobs eight pixels wide: uint8 (height, width, 3)."""
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def write_textures(folder: Path, count: int, height: int, width: int, digits: int = 1) -> Path:
    """Write `count` textures into a folder, as 0.png, 1.png, ..., the numbers with that many digits; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:0{digits}d}.png"), texture(height, width, rng))
    return folder
