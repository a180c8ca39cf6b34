"""Turning folders of images, folders of clips and videos into LMDB stores."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from kdsr_arch.data.codec import Codec, Window
from kdsr_arch.data.keys import clip_of, natural
from kdsr_arch.data.lmdb_writer import LmdbWriter
from kdsr_arch.data.sources import FolderSource, FrameSource
from kdsr_arch.data.video import VIDEO_SUFFIXES, crop_to_multiple, decode_video, halve
from kdsr_arch.errors import UserError

__all__ = [
    "ClipShapes",
    "Entry",
    "find_clips",
    "prepare_video_clips",
    "write_clip_list",
    "write_clips",
    "write_frames",
]

In = TypeVar("In")
Out = TypeVar("Out")
ClipShapes = dict[str, tuple[int, int, int]]  # (frames, H, W) by clip


class Entry(NamedTuple):
    """One frame to convert: where it comes from, and its key in the new store."""

    source: FrameSource
    key: str
    new_key: str
    window: Window | None = None


def ordered_map(function: Callable[[In], Out], items: Iterable[In], threads: int | None = None) -> Iterator[Out]:
    """``map`` over threads, in order, with a bounded number of results waiting (OpenCV releases the GIL)."""
    count = threads or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(count) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def write_frames(entries: Iterable[Entry], out: str | Path, codec: Codec | None = None) -> ClipShapes:
    """Writes frames to an LMDB store in BasicSR's layout; returns (frames, H, W) by clip.

    Args:
        entries: what to write, in order.
        out: ``NAME.lmdb``, must not exist; it appears whole or not at all.
        codec: how frames become values, PNG by default.

    Raises:
        UserError: a frame that does not decode, or differs in size from others of its clip, naming the file.
    """
    shapes: ClipShapes = {}
    with LmdbWriter(out, codec) as writer:

        def encoded(entry: Entry) -> tuple[Entry, bytes, tuple[int, ...]]:
            frame = entry.source.get(entry.key, entry.window)
            return entry, writer.codec.encode(frame), frame.shape[:2]

        for entry, value, size in ordered_map(encoded, entries):
            where = entry.source.where(entry.key)
            _count(shapes, clip_of(entry.new_key), size, where)
            writer.put_encoded(entry.new_key, value, size, where)
    return shapes


def _count(shapes: ClipShapes, clip: str, size: Sequence[int], where: str) -> None:
    """Adds a frame to a clip's count; frames without a clip may have any size."""
    count, *known = shapes.get(clip, (0, *size))
    if clip and tuple(known) != tuple(size):
        raise UserError(f"{where} is {size[0]}x{size[1]}, other frames of the clip are {known[0]}x{known[1]}")
    shapes[clip] = (count + 1, size[0], size[1])


def write_clips(clips: Iterable[tuple[str, Iterable[np.ndarray]]], out: str | Path) -> ClipShapes:
    """Writes clips that are decoded as they come to an LMDB store, with keys ``clip/00000000``.

    Args:
        clips: pairs of name and uint8 (H, W, 3) RGB frames.
    """
    shapes: ClipShapes = {}
    with LmdbWriter(out) as writer:

        def encoded(frame: np.ndarray) -> tuple[bytes, tuple[int, ...]]:
            return writer.codec.encode(frame), frame.shape[:2]

        for name, frames in clips:
            for index, (value, size) in enumerate(ordered_map(encoded, frames)):
                _count(shapes, name, size, f"{name}, frame {index}")
                writer.put_encoded(f"{name}/{index:08d}", value, size, name)
            if name not in shapes:
                raise UserError(f"clip '{name}' has no frames in the range asked for")
    return shapes


def write_clip_list(shapes: ClipShapes, path: str | Path) -> None:
    """Writes a ``meta_info_file``: one line ``clip frames (h,w,3)`` per clip."""
    lines = [f"{clip} {n} ({h},{w},3)\n" for clip, (n, h, w) in sorted(shapes.items(), key=lambda s: natural(s[0]))]
    target = Path(path)
    work = target.with_name(f".{target.name}.partial")
    work.write_text("".join(lines), encoding="utf-8")
    os.replace(work, target)


def find_clips(folder: str | Path) -> dict[str, Path]:
    """The clips directly under ``folder``, by name: video files and folders of frames."""
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root}: the folder of clips does not exist")
    found = [p for p in root.iterdir() if not p.name.startswith(".")]
    found = [p for p in found if p.is_dir() or p.suffix.lower() in VIDEO_SUFFIXES]
    clips: dict[str, Path] = {}
    for path in sorted(found, key=lambda p: natural(p.name)):
        name = path.name if path.is_dir() else path.stem
        if name in clips:
            raise UserError(f"{path}: another clip is named '{name}' as well; rename one of them")
        clips[name] = path
    if not clips:
        raise UserError(f"{root}: no videos and no folders of frames in it")
    return clips


def clip_frames(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video file or of a folder of images, in order, uint8 (H, W, 3) RGB."""
    if path.is_dir():
        source = FolderSource(path)
        return (source.get(key) for key in source)
    return decode_video(path)


def prepare_video_clips(
    folder: str | Path,
    out: str | Path,
    *,
    halved: bool = True,
    multiple: int = 4,
    exclude: Sequence[str] = (),
    ranges: Mapping[str, tuple[int | None, int | None]] | None = None,
) -> ClipShapes:
    """Turns a folder of videos and frame folders into a clip LMDB of clean frames.

    Args:
        out: the store, ``NAME.lmdb``.
        halved: halve each frame first, which makes compressed video clean.
        multiple: height and width are cropped (centre) to multiples of this.
        exclude: clips left out.
        ranges: ``{clip: (start, stop)}``, as a Python slice: the frames taken of that clip.

    Returns:
        (frames, H, W) by clip.
    """
    found = find_clips(folder)
    for name in [*exclude, *(ranges or {})]:
        if name not in found:
            raise UserError(f"{folder}: no clip '{name}'; there are {', '.join(found)}")

    def frames(name: str) -> Iterator[np.ndarray]:
        for frame in take(clip_frames(found[name]), (ranges or {}).get(name, (None, None))):
            yield crop_to_multiple(halve(frame) if halved else frame, multiple)

    return write_clips(((name, frames(name)) for name in found if name not in exclude), out)


def take(frames: Iterable[np.ndarray], span: tuple[int | None, int | None]) -> Iterable[np.ndarray]:
    """The frames of a slice; a negative bound counts from the end, as in Python."""
    start, stop = span
    if (start or 0) < 0 or (stop or 0) < 0:
        return list(frames)[start:stop]
    return (frame for index, frame in enumerate(frames) if index >= (start or 0) and (stop is None or index < stop))
