"""How one tile of a frame becomes bytes: raw or lossless WebP."""

from __future__ import annotations

import io
from typing import Protocol

import cv2
import numpy as np
from PIL import Image

__all__ = ["TILE_CODERS", "RawTiles", "TileCoder", "WebpTiles"]

Buffer = bytes | bytearray | memoryview


class TileCoder(Protocol):
    """One way to keep a tile. ``kind`` is its number in stored values and never changes."""

    name: str
    kind: int
    checked: bool  # whether a read compares the checksums of the tiles it touches

    def encode(self, tile: np.ndarray) -> bytes:
        """The bytes of a uint8 (h, w, 3) RGB tile."""

    def decode(self, data: Buffer, height: int, width: int) -> np.ndarray | None:
        """The tile (h, w, 3), perhaps a view of ``data``; None when the bytes are no such tile."""


class RawTiles:
    """The pixels themselves: a crop is copied out of the memory map. Checksums are compared by ``verify`` only, as
    that would read whole tiles for the part that is wanted."""

    name, kind, checked = "raw", 0, False

    def encode(self, tile: np.ndarray) -> bytes:
        return tile.tobytes()

    def decode(self, data: Buffer, height: int, width: int) -> np.ndarray | None:
        if len(data) != height * width * 3:
            return None
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)


class WebpTiles:
    """Lossless WebP, written by Pillow (whose effort can be chosen: a fifth of the time of OpenCV's at the same size)
    and read by OpenCV. Red and blue change places in the file, so that OpenCV's BGR is RGB without another pass."""

    name, kind, checked = "webp", 1, True
    _METHOD, _EFFORT = 1, 25  # beyond them the time grows much faster than the size shrinks

    def encode(self, tile: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        swapped = Image.fromarray(np.ascontiguousarray(tile[..., ::-1]))
        swapped.save(buffer, "WEBP", lossless=True, method=self._METHOD, quality=self._EFFORT)
        return buffer.getvalue()

    def decode(self, data: Buffer, height: int, width: int) -> np.ndarray | None:
        if _lossless_webp_size(data) != (height, width):  # before its pixels are made room for
            return None
        try:
            tile = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            return None
        return tile if tile is not None and tile.shape == (height, width, 3) else None


def _lossless_webp_size(data: Buffer) -> tuple[int, int] | None:
    """(H, W) by the header of a simple lossless WebP; None for any other file."""
    head = bytes(data[:25])
    if len(head) < 25 or head[:4] != b"RIFF" or head[8:16] != b"WEBPVP8L" or head[20] != 0x2F:
        return None
    bits = int.from_bytes(head[21:25], "little")
    return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1


TILE_CODERS: tuple[TileCoder, ...] = (RawTiles(), WebpTiles())
