"""How one frame is kept as bytes: the codec interface, and the image files (PNG, JPEG, WebP, ...) behind it.

A further value format needs one class like :class:`Codec`, named in ``CODECS``.
"""

from __future__ import annotations

import io
import zlib
from typing import Protocol

import cv2
import numpy as np

from kdsr_arch.data.notices import notice
from kdsr_arch.data.store.image_bytes import PILLOW_STUMBLES, decode_image
from kdsr_arch.data.store.tile_coders import TILE_CODERS, Buffer
from kdsr_arch.data.store.tiled_codec import TiledCodec
from kdsr_arch.data.window import Window, check_window
from kdsr_arch.errors import UserError, nearest

__all__ = ["CODECS", "CODEC_NAMES", "Codec", "ImageFileCodec", "Window", "check_window", "codec_named", "codec_of"]

CODEC_NAMES = ("webp", "raw", "png")


class Codec(Protocol):
    """One way to keep a frame as bytes.

    Attributes:
        name: as users write it.
        recipe: name and settings; frames written with the same recipe give the same bytes.
    """

    name: str
    recipe: str

    def accepts(self, data: Buffer) -> bool:
        """Whether ``data`` starts like a value of this format."""

    def size(self, data: Buffer, name: str) -> tuple[int, int]:
        """(H, W) without decoding the pixels."""

    def described(self, head: Buffer) -> str:
        """What a value that begins with these 64 bytes is, for people."""

    def decode(self, data: Buffer, name: str, window: Window | None = None) -> np.ndarray:
        """The frame, or the part of it under ``window``: uint8 (h, w, 3) RGB, C-contiguous, owned by the caller."""

    def encode(self, frame: np.ndarray) -> bytes:
        """The bytes of a uint8 (H, W, 3) RGB frame, lossless."""

    def verify(self, data: Buffer, name: str) -> tuple[int, int]:
        """(H, W), after everything that can be checked was: raises UserError for a value with a flipped byte."""


def _refuse_undecodable(name: str) -> UserError:
    return UserError(f"{name}: the frame does not decode (truncated, damaged or not an image); replace or remove it")


def _to_rgb(image: np.ndarray, name: str) -> np.ndarray:
    """Any uint8 image as OpenCV reads it (grey, BGR, BGRA) as a new (h, w, 3) RGB array."""
    if image.dtype != np.uint8:
        raise UserError(f"{name}: {image.dtype} pixels; only 8-bit images are supported, convert it to 8 bits first")
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.shape[2] == 4:
        notice("alpha", f"{name}: alpha channels are dropped (said once)")
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class ImageFileCodec:
    """Whole image files as values. A window is cut after decoding; what is encoded is PNG.

    Args:
        compress_level: zlib level of the PNG written, 0 to 9.
    """

    name = "png"

    def __init__(self, compress_level: int = 1) -> None:
        self.compress_level = compress_level
        self.recipe = f"png of level {compress_level}"

    def accepts(self, data: Buffer) -> bool:
        return True

    def size(self, data: Buffer, name: str) -> tuple[int, int]:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data)) as image:
                return image.height, image.width
        except PILLOW_STUMBLES:
            raise _refuse_undecodable(name) from None

    def described(self, head: Buffer) -> str:
        return "image files"

    def decode(self, data: Buffer, name: str, window: Window | None = None) -> np.ndarray:
        image = decode_image(data)
        if image is None:
            raise _refuse_undecodable(name)
        if window is not None:
            check_window(window, (image.shape[0], image.shape[1]), name)
            image = window.of(image)
        return _to_rgb(image, name)

    def encode(self, frame: np.ndarray) -> bytes:
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        ok, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, self.compress_level])
        if not ok:
            raise UserError(f"a frame of shape {frame.shape} cannot be written as PNG")
        return data.tobytes()

    def verify(self, data: Buffer, name: str) -> tuple[int, int]:
        if not _png_sums_agree(data):
            raise UserError(f"{name}: the stored frame is damaged (its checksum differs); copy or convert it again")
        height, width = self.decode(data, name).shape[:2]
        return height, width


def _png_sums_agree(data: Buffer) -> bool:
    """False for a PNG of which a chunk differs from its checksum; other files have none."""
    view = memoryview(data)
    if bytes(view[:8]) != b"\x89PNG\r\n\x1a\n":
        return True
    place = 8
    while place + 12 <= len(view):
        end = place + 8 + int.from_bytes(view[place : place + 4], "big")
        if zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return False
        place = end + 4
    return place == len(view)


# The first that accepts a value reads it, whichever coder wrote the tiles; image files come last.
CODECS: tuple[Codec, ...] = (TiledCodec(), ImageFileCodec())


def codec_of(data: Buffer) -> Codec:
    """The codec that reads a stored value."""
    return next(codec for codec in CODECS if codec.accepts(data))


def codec_named(name: str, edge: int = 0) -> Codec:
    """The codec that writes ``name``, one of :data:`CODEC_NAMES`; ``edge`` is the side of tiles (0: as suits)."""
    if name == "png":
        return ImageFileCodec()
    if name not in {coder.name for coder in TILE_CODERS}:
        raise UserError(f"codec '{name}' is unknown{nearest(name, CODEC_NAMES)}; use one of {', '.join(CODEC_NAMES)}")
    return TiledCodec(name, edge)
