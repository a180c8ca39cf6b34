"""Video files: mp4, mkv, avi, webm, through the data's reader and the upscaler's."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from kdsr_arch.data.prepare.decode_video import decode_video
from kdsr_arch.upscale.video_input import Decoder, probe
from tests.fuzz.material import texture
from tests.fuzz.mutate import mutate_bytes
from tests.fuzz.target import MIB, Target, try_all

_FORMS = (
    ("mp4", "mpeg4"),
    ("matroska", "mpeg4"),
    ("mp4", "libx264"),
    ("avi", "mjpeg"),
    ("webm", "libvpx-vp9"),
    ("matroska", "ffv1"),
)
_BOXES = (
    b"moov",
    b"trak",
    b"mdia",
    b"stsd",
    b"stsz",
    b"stco",
    b"stts",
    b"ctts",
    b"tkhd",
    b"mdhd",
    b"mvhd",
    b"elst",
    b"avcC",
    b"esds",
    b"mdat",
    b"ftyp",
    b"\x1a\x45\xdf\xa3",
    b"\x16\x54\xae\x6b",
    b"\xae",
    b"\xb0",
    b"\xba",
)


def _video(form: str, codec: str, count: int = 3) -> bytes | None:
    import av

    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format=form) as container:
            stream: Any = container.add_stream(codec, rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(texture(32, 32) + number, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except (av.FFmpegError, ValueError):  # this build has no such encoder
        return None
    return buffer.getvalue()


@cache
def seeds() -> list[bytes]:
    """Return three frames in every form that this build of FFmpeg writes."""
    return [*filter(None, (_video(*form) for form in _FORMS)), b"", bytes(8) + b"ftypisom"]


def mutate(data: bytes, rng: Random) -> bytes:
    """Change what follows a box's or element's name: sizes, counts, offsets, frame sizes."""
    places = [place for name in _BOXES for place in (data.find(name),) if place >= 0]
    if not places:
        return mutate_bytes(data, rng)
    start = rng.choice(places)
    start, stop = max(start - 4, 0), start + rng.choice((8, 24, 100))
    return data[:start] + mutate_bytes(data[start:stop], rng) + data[stop:]


def run(data: bytes, folder: Path) -> None:
    """Decode it as training data; then probe and decode it as an upscaling does."""
    file = folder / ("v.mp4", "v.mkv")[len(data) % 2]
    file.write_bytes(data)
    partial = len(data) % 4 == 0
    try_all(
        lambda: list(islice(decode_video(file), 20)),
        lambda: list(islice(Decoder(probe(file, partial), partial).frames(), 20)),
    )


TARGET = Target(
    "videos", "video files: mp4, mkv, avi, webm", seeds, run, mutate, memory=1600 * MIB, max_len=20_000, share=15
)
