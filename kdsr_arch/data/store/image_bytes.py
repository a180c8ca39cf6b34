"""Image files as OpenCV reads them, after a look at whether they are all there."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from kdsr_arch.data.store.tile_coders import Buffer

__all__ = ["PILLOW_STUMBLES", "decode_image", "is_whole"]

# what Pillow raises over files that are no image, or a damaged one
PILLOW_STUMBLES = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError),
    *(EOFError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)


def is_whole(data: Buffer) -> bool:
    """False for a PNG, JPEG or WebP that ends too early.

    Some decoders fill what is missing with grey, silently, or make room for what a PNG's chunk says it holds.
    """
    head, tail = bytes(data[:12]), bytes(data[-4096:])
    if head.startswith(b"\x89PNG"):
        return _chunks_end(data)
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in tail
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= len(data)
    return len(data) > 0


def _chunks_end(data: Buffer) -> bool:
    """Whether the chunks of a PNG lie inside the file up to the last."""
    view, place = memoryview(data), 8
    while place + 12 <= len(view):
        if view[place + 4 : place + 8] == b"IEND":
            return True
        place += 12 + int.from_bytes(view[place : place + 4], "big")
    return False


def decode_image(data: Buffer, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray | None:
    """The pixels in OpenCV's order, or None where the bytes are no whole image, or one that is too large."""
    if not is_whole(data):
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
