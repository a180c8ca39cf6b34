"""Values of LMDB stores: tiles with their header and index, image files, arrays of a teacher."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from kdsr_arch.data.augment import Crop
from kdsr_arch.data.store.codec import codec_named, codec_of
from tests.fuzz.material import encoded, texture
from tests.fuzz.mutate import mutate_bytes
from tests.fuzz.target import MIB, Target, try_all

_HEAD = struct.Struct("<8sBBHII")
_SIDES = (0, 1, 7, 8, 24, 32, 64, 4096, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


@cache
def seeds() -> list[bytes]:
    """Return frames in every format that is written, with many small tiles."""
    frame = texture(40, 56)
    tiled = [codec_named(name, edge).encode(frame) for name in ("webp", "raw") for edge in (16, 64)]
    giants = [_record(kind, 65535, 65535, 65535, [b""]) for kind in (0, 1)]
    return [
        *tiled,
        codec_named("png").encode(frame),
        encoded(".jpg", frame),
        encoded(".webp", frame),
        *giants,
        _record(1, 64, 24, 32, [encoded(".webp", texture(2000, 2000))]),
        b"",
        b"KDSRtile",
    ]


def _record(kind: int, edge: int, height: int, width: int, tiles: list[bytes]) -> bytes:
    """Make a value whose checksums agree, whatever it says."""
    head = _HEAD.pack(b"KDSRtile", 1, kind, edge, height, width)
    ends = np.cumsum([len(tile) for tile in tiles]).tolist()
    index = struct.pack(f"<{2 * len(tiles)}I", *ends, *map(zlib.crc32, tiles))
    return b"".join((head, struct.pack("<I", zlib.crc32(head + index)), index, *tiles))


def mutate(data: bytes, rng: Random) -> bytes:
    """Change a field of the header, the index or a tile, and correct the checksum, as an attacker would."""
    if len(data) < 28 or not data.startswith(b"KDSRtile"):
        return mutate_bytes(data, rng)
    magic, version, kind, edge, height, width = _HEAD.unpack_from(data)
    body = data[28:]
    what = rng.randrange(5)
    if what == 0:
        height, width = rng.choice(((rng.choice(_SIDES), width), (height, rng.choice(_SIDES))))
    elif what == 1:
        edge = rng.choice((0, 1, 8, 16, 17, 64, 65535))
    elif what == 2:
        kind, version = rng.choice((0, 1, 2, 3, 255)), rng.choice((1, 1, 1, 0, 2, 255))
    else:
        body = mutate_bytes(body, rng)
    head = _HEAD.pack(magic, version, kind, edge, height, width)
    count = -(-height // edge) * -(-width // edge) if edge else 0
    index = body[: min(8 * count, len(body))]
    return head + struct.pack("<I", zlib.crc32(head + index)) + body


def run(data: bytes, folder: Path) -> None:
    """Read a stored value in every way: its size, its description, a crop, the whole, every checksum."""
    codec = codec_of(data)
    codec.described(data[:64])
    try_all(
        lambda: codec.size(data, "store: 'k'"),
        lambda: codec.decode(data, "store: 'k'", Crop(8, 8, 8, 8)),
        lambda: codec.decode(memoryview(data), "store: 'k'"),
        lambda: codec.verify(data, "store: 'k'"),
    )


TARGET = Target(
    "lmdb_values",
    "values of LMDB stores: tiles (header, index, raw, WebP) and image files",
    seeds,
    run,
    mutate,
    memory=640 * MIB,
    max_len=40_000,
    share=30,
)
