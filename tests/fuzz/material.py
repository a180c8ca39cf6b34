"""Small sound files to start from: images and stores, made by code."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np


def texture(height: int = 24, width: int = 32, channels: int = 3, deep: bool = False) -> np.ndarray:
    """Make a uint8 (or uint16) (H, W, C) image with structure and noise."""
    rng = np.random.default_rng(height * 1000 + width)
    coarse = rng.integers(0, 256, (4, 4, channels), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    return image.astype(np.uint16) * 257 if deep else image


def encoded(suffix: str, image: np.ndarray) -> bytes:
    """Encode an image file with OpenCV."""
    return cv2.imencode(suffix, image)[1].tobytes()


def with_pillow(form: str, mode: str, **keywords: object) -> bytes:
    """Encode an image file of any mode with Pillow."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(texture()).convert(mode).save(buffer, form, **keywords)
    return buffer.getvalue()


def write_store(root: Path, values: dict[bytes, bytes], lines: str) -> Path:
    """Write an LMDB store with those values and that list of frames."""
    import lmdb

    root.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(root), map_size=8 << 20, sync=False) as environment:
        with environment.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key, value)
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    with open(root / "data.mdb", "r+b") as file:
        file.truncate(max(needed, (root / "data.mdb").stat().st_size))
    (root / "meta_info.txt").write_text(lines, encoding="utf-8")
    return root
