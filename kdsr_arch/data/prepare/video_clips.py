"""Folders of videos and of frame folders as clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from kdsr_arch.data.keys import natural
from kdsr_arch.data.prepare.decode_video import (
    VIDEO_SUFFIXES,
    StreamSource,
    crop_to_multiple,
    decode_video,
    halve,
    take,
)
from kdsr_arch.data.prepare.frame_writer import ClipShapes, Making, write_clips
from kdsr_arch.data.sources import FolderSource, FrameSource
from kdsr_arch.errors import UserError

__all__ = ["clip_source", "find_clips", "prepare_video_clips"]

Span = tuple[int | None, int | None]


def find_clips(folder: str | Path) -> dict[str, Path]:
    """The clips directly under ``folder``, by name: video files and folders of frames; or the one video itself."""
    root = Path(folder)
    if root.is_file():
        return {root.stem: root}
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


def clip_source(path: Path, halved: bool = False, multiple: int = 1, span: Span = (None, None)) -> FrameSource:
    """The frames of a video or of a folder, in order.

    Args:
        halved: halve each frame, which makes compressed video clean.
        multiple: height and width are cropped (centre) to multiples of this.
        span: the frames taken, as a Python slice.
    """

    def frames() -> Iterator[np.ndarray]:
        for frame in take(_all_frames(path), span):
            yield crop_to_multiple(halve(frame) if halved else frame, multiple)

    known = path.stat()
    return StreamSource(frames, str(path), f"{known.st_size} {known.st_mtime_ns} {halved} {multiple} {span}")


def _all_frames(path: Path) -> Iterable[np.ndarray]:
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
    ranges: Mapping[str, Span] | None = None,
    making: Making | None = None,
) -> ClipShapes:
    """Turns a folder of videos and frame folders, or one video, into a clip LMDB.

    Args:
        out: the store, ``NAME.lmdb``.
        halved, multiple: see :func:`clip_source`.
        exclude: clips left out.
        ranges: ``{clip: (start, stop)}``, as a Python slice: the frames taken of that clip.

    Returns:
        (frames, H, W) by clip.
    """
    found = find_clips(folder)
    for name in [*exclude, *(ranges or {})]:
        if name not in found:
            raise UserError(f"{folder}: no clip '{name}'; there are {', '.join(found)}")
    spans = ranges or {}
    wanted = (
        (name, clip_source(path, halved, multiple, spans.get(name, (None, None))))
        for name, path in found.items()
        if name not in exclude
    )
    return write_clips(wanted, out, making)
