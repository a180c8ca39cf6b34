"""Frames as bytes: the codec interface, and the codec of image files (PNG, JPEG, WebP, ...).

Another format of values needs one class like :class:`Codec`, named in ``CODECS``.
"""

from __future__ import annotations

import io
import zlib
from typing import Protocol

import cv2
import numpy as np

from kdsr_arch.data.augment import Crop, cut
from kdsr_arch.data.image_file import PILLOW_STUMBLES, UnknownWhite, decode_upright, image_size, png_chunks, unsigned
from kdsr_arch.data.store.tiled_codec import Buffer, ListedSize, TiledCodec, check_listed
from kdsr_arch.errors import UserError, notice

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
        """Return whether ``data`` starts like a value of this format."""

    def size(self, data: Buffer, name: str) -> tuple[int, int]:
        """Return (H, W) without decoding the pixels."""

    def described(self, head: Buffer) -> str:
        """Describe a value by its first 64 bytes, for messages."""

    def decode(self, data: Buffer, name: str, crop: Crop | None = None, listed: ListedSize | None = None) -> np.ndarray:
        """Decode the frame, or its part under ``crop``: (h, w, 3) RGB, C-contiguous, owned by the caller.

        uint8; uint16 of an image file that holds more than 8 bits a channel. A frame of another size than the one
        ``listed`` is refused.
        """

    def encode(self, frame: np.ndarray) -> bytes:
        """Return the bytes of a uint8 (H, W, 3) RGB frame, lossless."""

    def verify(self, data: Buffer, name: str) -> tuple[int, int]:
        """Check all that can be checked and return (H, W); raise UserError for a value with a flipped byte."""


def _refuse_undecodable(name: str) -> UserError:
    return UserError(f"{name}: the frame does not decode (truncated, damaged or not an image); replace or remove it")


class ImageFileCodec:
    """Whole image files as values: a crop is cut after decoding, and frames are encoded as PNG.

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
        try:
            return image_size(bytes(data))
        except UnknownWhite as error:
            raise UserError(f"{name}: {error}") from None
        except PILLOW_STUMBLES:
            raise _refuse_undecodable(name) from None

    def described(self, head: Buffer) -> str:
        return "image files"

    def decode(self, data: Buffer, name: str, crop: Crop | None = None, listed: ListedSize | None = None) -> np.ndarray:
        """Decode an image file, upright, to (h, w, 3) RGB of 8 or 16 bits."""
        image = decode_upright(data)
        if image is None:
            raise _refuse_undecodable(name)
        check_listed(image.shape[:2], listed, name)
        try:
            image = unsigned(cut(image, crop, name), data)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
        if image.ndim == 2 or image.shape[2] == 1:
            return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        if image.shape[2] == 4:
            notice("alpha", f"{name}: alpha channels are dropped (said once)")
            return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def encode(self, frame: np.ndarray) -> bytes:
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        ok, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, self.compress_level])
        if not ok:
            raise UserError(f"a frame of shape {frame.shape} cannot be written as PNG")
        return data.tobytes()

    def verify(self, data: Buffer, name: str) -> tuple[int, int]:
        if bytes(data[:8]) == b"\x89PNG\r\n\x1a\n" and not _png_sums_agree(bytes(data)):
            raise UserError(f"{name}: the stored frame is damaged (its checksum differs); copy or convert it again")
        height, width = self.decode(data, name).shape[:2]
        return height, width


def _png_sums_agree(data: bytes) -> bool:
    """Return False for a PNG that has no end, or a chunk that differs from its checksum."""
    chunks = list(png_chunks(io.BytesIO(data)))
    sums = (
        int.from_bytes(data[end - 4 : end], "big") == zlib.crc32(data[start + 4 : end - 4]) for _, start, end in chunks
    )
    return bool(chunks) and chunks[-1][0] == b"IEND" and all(sums)


# The first that accepts a value reads it, whichever coder wrote the tiles; image files come last.
CODECS: tuple[Codec, ...] = (TiledCodec(), ImageFileCodec())


def codec_of(data: Buffer) -> Codec:
    """Return the codec that reads a stored value."""
    return next(codec for codec in CODECS if codec.accepts(data))


def codec_named(name: str, edge: int = 0) -> Codec:
    """Return the codec that writes ``name``, one of :data:`CODEC_NAMES`; ``edge`` is the tiles' side (0: automatic)."""
    return ImageFileCodec() if name == "png" else TiledCodec(name, edge)
