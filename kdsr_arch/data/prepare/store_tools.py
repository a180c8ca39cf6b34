"""Tools for LMDB stores: describe, verify, and get frames out again."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kdsr_arch.data.flow_image import FLOW_SIDE
from kdsr_arch.data.keys import stored_key
from kdsr_arch.data.prepare.workers import ordered_map
from kdsr_arch.data.sources import LmdbSource
from kdsr_arch.data.store.codec import ImageFileCodec, codec_of
from kdsr_arch.data.store.lmdb_store import reading, recipe_of
from kdsr_arch.errors import UserError
from kdsr_arch.io import write_bytes
from kdsr_arch.records import available_cores

_LOOKED_AT = 200  # values whose format `describe` looks at
_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"BM": ".bmp"}


class Fault(NamedTuple):
    """A frame of a store that is not as it should be."""

    key: str
    reason: str


def describe(root: str | Path) -> list[str]:
    """Describe a store in lines: frames, clips, sizes, formats, bytes beside those of raw pixels, how it was made."""
    lines, raw = [], 0
    for source in LmdbSource(root).versions():
        keys, clips = source.keys(), source.clips()
        sizes = Counter(source.size(key) for key in keys)
        raw += sum(3 * height * width * count for (height, width), count in sizes.items())
        shown = ", ".join(f"{count:,} of {w}x{h}" for (h, w), count in sizes.most_common(3))
        more = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
        what = "flow" if source.side == FLOW_SIDE else f"LR '{source.side}'"
        name = what if source.side else "frames"
        formats = set()
        for _, data in source.values(keys[:: max(1, len(keys) // _LOOKED_AT)]):
            suffix = next((suffix for magic, suffix in _SUFFIXES.items() if data[: len(magic)] == magic), None)
            formats.add(suffix[1:] if suffix else codec_of(data).described(data[:64]))
        kinds = " and ".join(sorted(formats))
        lines.append(f"{name}: {len(keys):,} in {len(clips):,} clips ({shown}{more}), {kinds}")
    size = (Path(root) / "data.mdb").stat().st_size
    lines.append(f"size: {size / 1e6:,.1f} MB, {size / raw:.2f} of raw pixels")
    if made := recipe_of(Path(root)):
        lines.append(f"made with: {json.dumps({key: value for key, value in made.items() if value is not None})}")
    return lines


def verify(
    root: str | Path, processes: int | None = None, progress: Callable[[], object] = lambda: None
) -> list[Fault]:
    """Read every value: checksums, decoding, and the size that the list of frames says.

    Args:
        progress: called after each frame.

    Returns:
        What is at fault; empty for a store that is whole.
    """
    sources = LmdbSource(root).versions()
    jobs = ((source.detached(key), key) for source in sources for key in source)
    faults = []
    for fault in ordered_map(_check, jobs, processes or available_cores()):
        progress()
        if fault is not None:
            faults.append(fault)
    listed = {stored_key(key, source.side) for source in sources for key in source}
    with reading(Path(root)) as transaction:
        strays = [bytes(key) for key in transaction.cursor().iternext(values=False) if bytes(key) not in listed]
    what = "is in data.mdb, but no list of frames names it"
    return faults + [Fault(stray.decode(errors="replace"), what) for stray in strays]


def _check(job: tuple[LmdbSource, str]) -> Fault | None:
    source, key = job
    reason = source.fault(key)
    return Fault(key, reason) if reason else None


def export(root: str | Path, folder: str | Path, side: str = "", processes: int | None = None) -> int:
    """Write the frames of a store as image files; those that are kept as such come out byte for byte.

    Args:
        folder: is made; must be empty, if it exists.

    Returns:
        How many files were written.
    """
    source, folder = LmdbSource(root, side), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already and is not an empty folder; choose another name")
    try:
        for parent in {(folder / key).parent for key in source}:
            parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    write = functools.partial(_export_one, folder=folder)
    jobs = ((source.detached(key), key) for key in source)
    try:
        return sum(1 for _ in ordered_map(write, jobs, processes or available_cores()))
    except UserError as error:
        raise UserError(f"{error}; the export is not whole: remove {folder} before you run it again") from None


def _export_one(job: tuple[LmdbSource, str], folder: Path) -> None:
    source, key = job
    data = source.encoded(key)
    suffix = next((suffix for magic, suffix in _SUFFIXES.items() if data.startswith(magic)), None)
    if suffix is None:
        data, suffix = ImageFileCodec().encode(source.get(key)), ".png"
    write_bytes(folder / f"{key}{suffix}", data)  # keys cannot lead out of the folder (safe_key)
