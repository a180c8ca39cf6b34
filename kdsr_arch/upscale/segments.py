"""The work folder of a long video: encoded segments, each whole or absent, so that an interrupted run goes on."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kdsr_arch.errors import UserError
from kdsr_arch.io import remove_leftovers, write_bytes, write_whole

_MAGIC = b"KDSRSEG1"
_SETTINGS = "settings.json"


class Encoded(NamedTuple):
    """One encoded frame: its number in display order within its segment, whether it is a key frame, its bytes."""

    number: int
    key: bool
    data: bytes


@dataclass(frozen=True)
class Segment:
    """A stored segment.

    Attributes:
        path: its file.
        times: of its frames in display order, in the input's units.
        durations: likewise; 0 where unknown.
        numbers: the frames in the order they are stored: that of decoding.
        keys: which of them are key frames.
        sizes: their bytes.
    """

    path: Path
    times: list[int]
    durations: list[int]
    numbers: list[int]
    keys: list[bool]
    sizes: list[int]

    def frames(self) -> Iterator[Encoded]:
        """Read the encoded frames one by one, in the order of decoding."""
        with open(self.path, "rb") as file:
            _read_header(file)
            for number, key, size in zip(self.numbers, self.keys, self.sizes, strict=True):
                yield Encoded(number, key, file.read(size))


def write_segment(path: Path, times: Sequence[int], durations: Sequence[int], frames: Sequence[Encoded]) -> None:
    """Store a segment, whole or not at all."""
    stored = {"numbers": [f.number for f in frames], "keys": [f.key for f in frames]}
    stored["sizes"] = [len(f.data) for f in frames]
    header = json.dumps({"times": list(times), "durations": list(durations), **stored}).encode()

    def write(file: Any) -> None:
        file.write(_MAGIC + struct.pack("<Q", len(header)) + header)
        for frame in frames:
            file.write(frame.data)

    write_whole(path, write)


def _read_header(file: Any) -> dict[str, Any]:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("no segment")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > os.fstat(file.fileno()).st_size:
        raise ValueError("cut short")
    return json.loads(file.read(length))


def read_segment(path: Path) -> Segment | None:
    """Read a stored segment; None where the file is none."""
    try:
        with open(path, "rb") as file:
            header = _read_header(file)
            left = path.stat().st_size - file.tell()
        segment = Segment(path, **header)
        whole = left == sum(segment.sizes) and len(segment.times) == len(segment.numbers) and min(segment.sizes) >= 0
    except (OSError, ValueError, TypeError, OverflowError, RecursionError, struct.error):
        return None
    return segment if whole else None


class WorkFolder:
    """Where the segments of one output lie until they are put together: beside it, hidden.

    Args:
        target: the output.
        settings: what the segments depend on; a folder of other settings is emptied.
    """

    def __init__(self, target: Path, settings: dict[str, Any]) -> None:
        self.folder = target.with_name(f".{target.name}.work")
        content, file = json.dumps(settings, indent=1, sort_keys=True, default=str).encode(), self.folder / _SETTINGS
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{target.parent}: cannot be written ({error.strerror or error})") from None
        if not file.is_file() or file.read_bytes() != content:
            for path in self.folder.iterdir():
                path.unlink()
            write_bytes(file, content)
        remove_leftovers(self.folder)

    def place(self, number: int) -> Path:
        """Return the file of segment ``number``."""
        return self.folder / f"{number:06d}.seg"

    def done(self) -> list[Segment]:
        """Read the stored segments from the first on, up to the first gap."""
        segments: list[Segment] = []
        while (segment := read_segment(self.place(len(segments)))) is not None:
            segments.append(segment)
        return segments

    def remove(self) -> None:
        """Delete the folder: the work is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
