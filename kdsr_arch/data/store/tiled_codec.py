"""Frames kept as lossless tiles with an index, so that a crop reads the tiles under it and no others.

A value is a header, the index, and the tiles row by row (numbers are little-endian)::

    magic "KDSRtile" | version u8 | kind u8 | edge u16 | height u32 | width u32 | crc32 of header and index u32
    ends of the tiles, from the first tile's start: n x u32 | crc32 of the tiles: n x u32
    tiles

Tiles are squares of ``edge`` pixels, smaller at the right and bottom.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from kdsr_arch import MAX_PIXELS
from kdsr_arch.data.augment import Crop, check_crop
from kdsr_arch.errors import UserError, nearest

Buffer = bytes | bytearray | memoryview


class ListedSize(NamedTuple):
    """The size (H, W) of a frame in a store's list, and the list's name."""

    size: tuple[int, int]
    file: str


class RawTiles:
    """Tiles as their pixels: a crop is copied out of the memory map.

    Attributes:
        kind: number of this coder in stored values; never changes.
        checked: whether a read compares the checksums of the tiles it touches; here ``verify`` alone does, as a read
            would have to fetch whole tiles for a part of them.
    """

    name, kind, checked = "raw", 0, False

    def encode(self, tile: np.ndarray) -> bytes:
        """Return the bytes of a uint8 (h, w, 3) RGB tile."""
        return tile.tobytes()

    def decode(self, data: Buffer, height: int, width: int) -> np.ndarray | None:
        """Return the tile (h, w, 3), perhaps a view of ``data``; None when the bytes are no such tile."""
        if len(data) != height * width * 3:
            return None
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)


class WebpTiles:
    """Tiles as lossless WebP, written by Pillow and read by OpenCV.

    Pillow's effort can be chosen: a fifth of the time of OpenCV's at the same size. Red and blue change places in the
    file, so that OpenCV's BGR is RGB without another pass.
    """

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
    """Read (H, W) from the header of a simple lossless WebP; None for any other file."""
    head = bytes(data[:25])
    if len(head) < 25 or head[:4] != b"RIFF" or head[8:16] != b"WEBPVP8L" or head[20] != 0x2F:
        return None
    bits = int.from_bytes(head[21:25], "little")
    return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1


TILE_CODERS = (RawTiles(), WebpTiles())
_MAGIC = b"KDSRtile"
_VERSION = 1
_HEAD = struct.Struct("<8sBBHII")
_CRC = struct.Struct("<I")


class _Index(NamedTuple):
    coder: RawTiles | WebpTiles
    edge: int
    size: tuple[int, int]
    ends: tuple[int, ...]
    sums: tuple[int, ...]
    first: int  # where the tiles start


class TiledCodec:
    """Frames as tiles.

    Args:
        coder: 'webp' (small) or 'raw' (fast).
        edge: of the tiles in pixels; 0 lets each frame's size decide.
    """

    def __init__(self, coder: str = "webp", edge: int = 0) -> None:
        known = {c.name: c for c in TILE_CODERS}
        if coder not in known:
            raise UserError(f"codec '{coder}' is unknown{nearest(coder, known)}; use webp, raw or png")
        if not (edge == 0 or 8 <= edge <= 4096):
            raise UserError(f"tiles of {edge} pixels are not possible; use 8 to 4096, or 0 for the size that suits")
        self.coder, self.edge = known[coder], edge
        self.name = coder
        self.recipe = f"{coder} tiles of {edge or 'auto'}"

    def accepts(self, data: Buffer) -> bool:
        return bytes(data[:8]) == _MAGIC

    def size(self, data: Buffer, name: str) -> tuple[int, int]:
        return _index(data, name).size

    def described(self, head: Buffer) -> str:
        if len(head) < _HEAD.size:
            return "damaged tiles"
        _, _, kind, edge, _, _ = _HEAD.unpack_from(head)
        coder = next((c.name for c in TILE_CODERS if c.kind == kind), "unknown")
        return f"{coder} tiles of {edge}"

    def encode(self, frame: np.ndarray) -> bytes:
        """Return the bytes of a uint8 (H, W, 3) RGB frame; raise UserError for one of 16 bits."""
        if frame.dtype != np.uint8:
            raise UserError("the frame has 16 bits a channel, tiles hold 8: a store of PNG (--codec png) keeps it")
        height, width = frame.shape[:2]
        # for crops of the usual sides, of HR frames or of frames as small as their LR
        edge = self.edge or (128 if min(height, width) >= 400 else 64)
        tiles = [
            self.coder.encode(np.ascontiguousarray(frame[top : top + edge, left : left + edge]))
            for top in range(0, height, edge)
            for left in range(0, width, edge)
        ]
        ends = np.cumsum([len(tile) for tile in tiles], dtype=np.int64)
        if ends[-1] >= 1 << 32:
            raise UserError(f"a frame of {height}x{width} is too large for one value (4 GiB)")
        head = _HEAD.pack(_MAGIC, _VERSION, self.coder.kind, edge, height, width)
        index = struct.pack(f"<{2 * len(tiles)}I", *ends.tolist(), *map(zlib.crc32, tiles))
        return b"".join((head, _CRC.pack(zlib.crc32(head + index)), index, *tiles))

    def decode(self, data: Buffer, name: str, crop: Crop | None = None, listed: ListedSize | None = None) -> np.ndarray:
        """Decode the frame, or its part under ``crop``: uint8 (h, w, 3) RGB, owned by the caller.

        Raises:
            UserError: the value is truncated or damaged (tiles that are not packed are not compared with their
                checksums here), not of the size ``listed``, or the crop leaves the frame.
        """
        index = _index(data, name)
        check_listed(index.size, listed, name)
        crop = crop or Crop(0, 0, *index.size)
        check_crop(crop, index.size, name)
        out = np.empty((crop.height, crop.width, 3), np.uint8)
        view, edge = memoryview(data), index.edge
        across = -(-index.size[1] // edge)
        for row in range(crop.top // edge, (crop.top + crop.height - 1) // edge + 1):
            y0, y1, oy = _overlap(row * edge, edge, crop.top, crop.height, index.size[0])
            for column in range(crop.left // edge, (crop.left + crop.width - 1) // edge + 1):
                x0, x1, ox = _overlap(column * edge, edge, crop.left, crop.width, index.size[1])
                tile = _tile(view, index, row * across + column, name)
                out[oy : oy + y1 - y0, ox : ox + x1 - x0] = tile[y0:y1, x0:x1]
        return out

    def verify(self, data: Buffer, name: str) -> tuple[int, int]:
        """Return (H, W); raise UserError unless every tile has its checksum and decodes."""
        index, view = _index(data, name), memoryview(data)
        for number in range(len(index.ends)):
            if zlib.crc32(_bytes_of(view, index, number)) != index.sums[number]:
                raise _damaged(name)
            _tile(view, index, number, name)
        return index.size


def check_listed(size: Sequence[int], listed: ListedSize | None, name: str) -> None:
    """Raise UserError for a frame of another size than its store's list says: crops would be of its top left alone."""
    if listed is not None and tuple(size) != listed.size:
        before = "x".join(map(str, listed.size))
        raise UserError(
            f"{name}: is {size[0]}x{size[1]}, but {listed.file} lists it as {before}; convert the data again"
        )


def _overlap(start: int, edge: int, crop_start: int, extent: int, limit: int) -> tuple[int, int, int]:
    """Along one axis, find the first and last pixel (exclusive) of a tile that the crop takes, and where they go."""
    low, high = max(start, crop_start), min(start + edge, crop_start + extent, limit)
    return low - start, high - start, low - crop_start


def _damaged(name: str) -> UserError:
    return UserError(f"{name}: the stored frame is damaged (its checksum differs); copy the store again or convert it")


def _index(data: Buffer, name: str) -> _Index:
    head = bytes(data[: _HEAD.size + _CRC.size])
    if len(head) < _HEAD.size + _CRC.size:
        raise _damaged(name)
    _, version, kind, edge, height, width = _HEAD.unpack_from(head)
    if version != _VERSION:
        raise UserError(f"{name}: written by a newer version of KDSR (format {version}); update this one")
    coder = next((c for c in TILE_CODERS if c.kind == kind), None)
    if height * width > MAX_PIXELS:
        raise UserError(f"{name}: says that it is {height}x{width}; no more than {MAX_PIXELS:,} pixels are read")
    count = -(-height // edge) * -(-width // edge) if edge and coder else 0
    first = len(head) + 8 * count
    if first > len(data):
        raise _damaged(name)
    index = bytes(data[len(head) : first])
    if not count or coder is None or zlib.crc32(head[: _HEAD.size] + index) != _CRC.unpack_from(head, _HEAD.size)[0]:
        raise _damaged(name)
    numbers = struct.unpack(f"<{2 * count}I", index)
    if first + numbers[count - 1] > len(data):
        raise _damaged(name)
    return _Index(coder, edge, (height, width), numbers[:count], numbers[count:], first)


def _bytes_of(view: memoryview, index: _Index, number: int) -> memoryview:
    start = index.ends[number - 1] if number else 0
    return view[index.first + start : index.first + index.ends[number]]


def _tile(view: memoryview, index: _Index, number: int, name: str) -> np.ndarray:
    data = _bytes_of(view, index, number)
    across = -(-index.size[1] // index.edge)
    height = min(index.edge, index.size[0] - number // across * index.edge)
    width = min(index.edge, index.size[1] - number % across * index.edge)
    if index.coder.checked and zlib.crc32(data) != index.sums[number]:
        raise _damaged(name)
    tile = index.coder.decode(data, height, width)
    if tile is None:
        raise _damaged(name)
    return tile
