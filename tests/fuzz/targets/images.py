"""Image files: PNG, JPEG, WebP, TIFF, BMP, PPM, through every reader of the project."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from pathlib import Path
from random import Random

from kdsr_arch.data.sources import FolderSource
from kdsr_arch.data.store.codec import codec_of
from kdsr_arch.report.compare_data import read_image
from kdsr_arch.upscale.picture import read_picture
from tests.fuzz.material import encoded, texture, with_pillow
from tests.fuzz.mutate import mutate_bytes
from tests.fuzz.target import MIB, Target, try_all

_SIDES = (0, 1, 2, 31, 33, 255, 4096, 13000, 60000, 65535, 2**31 - 1, 2**31, 2**32 - 1)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, depth: int = 8, kind: int = 2) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(bytes(400))) + _chunk(b"IEND", b"")
    )


def _text_bomb() -> bytes:
    """Make a PNG whose text and profile unpack to 64 MiB each."""
    packed = zlib.compress(bytes(64 * MIB), 9)
    plain = encoded(".png", texture())
    extra = _chunk(b"zTXt", b"k\0\0" + packed) + _chunk(b"iCCP", b"p\0\0" + packed)
    return plain[:33] + extra + plain[33:]


@cache
def seeds() -> list[bytes]:
    """Return every form and mode that is written, and headers that claim too much."""
    frame, deep = texture(), texture(deep=True)
    plain = [encoded(suffix, frame) for suffix in (".png", ".jpg", ".webp", ".tiff", ".bmp", ".ppm")]
    modes = [with_pillow("PNG", mode) for mode in ("L", "LA", "P", "1", "RGBA")]
    others = [
        with_pillow("TIFF", "RGB", compression="tiff_lzw"),
        with_pillow("TIFF", "CMYK"),
        with_pillow("GIF", "P"),
        with_pillow("JPEG", "CMYK"),
        with_pillow("JPEG", "L", progressive=True),
        with_pillow("WEBP", "RGBA"),
        with_pillow("ICO", "RGB"),
        with_pillow("PPM", "L"),
        with_pillow("TIFF", "F"),
    ]
    giants = [
        _png(60000, 60000),
        _png(2**31 - 1, 1),
        _png(13000, 13000),
        _png(1, 2**31 - 1),
        _png(0, 5),
        _png(8, 8, 16, 6),
    ]
    return [
        *plain,
        encoded(".png", deep),
        encoded(".tiff", deep),
        *modes,
        *others,
        *giants,
        b"",
        b"P6 60000 60000 255\n",
        b"P5 99999999999 1 255\n" + bytes(9),
        _text_bomb(),
    ]


def mutate(data: bytes, rng: Random) -> bytes:
    """Claim another size, depth or kind in the header, and correct the checksum of a PNG's chunk."""
    if not data.startswith(b"\x89PNG") or len(data) < 33:
        place = rng.randrange(max(len(data) - 4, 1))
        return data[:place] + struct.pack(rng.choice("<>") + "I", rng.choice(_SIDES)) + data[place + 4 :]
    fields = bytearray(data[16:29])
    what = rng.randrange(4)
    if what <= 1:
        struct.pack_into(">I", fields, 4 * what, rng.choice(_SIDES))
    elif what == 2:
        fields[8:13] = bytes(rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(5))
    else:
        return data[:33] + mutate_bytes(data[33:], rng)
    return data[:12] + b"IHDR" + fields + struct.pack(">I", zlib.crc32(b"IHDR" + bytes(fields))) + data[33:]


def run(data: bytes, folder: Path) -> None:
    """Read it as a stored value, a frame in a folder, an image to upscale and one to compare."""
    codec = codec_of(data)
    suffix = (".png", ".tif", ".jpg")[len(data) % 3]
    place = folder / "frames" / f"a{suffix}"
    place.parent.mkdir(exist_ok=True)
    for old in place.parent.iterdir():
        old.unlink()
    place.write_bytes(data)
    source = FolderSource(place.parent)
    try_all(
        lambda: codec.size(data, "k"),
        lambda: codec.decode(data, "k"),
        lambda: codec.verify(data, "k"),
        lambda: source.size("a"),
        lambda: source.get("a"),
        lambda: read_picture(place),
        lambda: read_image(place),
    )


TARGET = Target(
    "images",
    "image files: PNG, JPEG, WebP, TIFF, BMP, PPM, GIF",
    seeds,
    run,
    mutate,
    memory=1600 * MIB,
    max_len=150_000,
    share=25,
)
