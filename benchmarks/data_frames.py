"""Frames for the data benchmarks: real video at 1280x720 with mild camera-like noise, and made-up 2K pictures.

Video that was compressed has lost the noise of the camera, which is most of what a lossless codec has to keep; codecs
would be flattered. So noise is added whose variance grows with the light, as that of a sensor does.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np

from kdsr_arch.data.prepare.decode_video import decode_video

READ_NOISE, SHOT_NOISE = 0.6, 0.012  # variance = READ_NOISE + SHOT_NOISE * value, in units of 8-bit levels


def noisy(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add sensor noise to a uint8 frame, independent in each pixel and channel."""
    clean = frame.astype(np.float32)
    spread = np.sqrt(READ_NOISE + SHOT_NOISE * clean)
    return np.clip(np.rint(clean + spread * rng.standard_normal(clean.shape, dtype=np.float32)), 0, 255).astype(
        np.uint8
    )


def video_frames(videos: list[Path], count: int) -> dict[str, list[np.ndarray]]:
    """``count`` consecutive noisy 1280x720 frames of each video of at least that size, by clip ``000``, ``001``, ..."""
    rng = np.random.default_rng(0)
    clips = {}
    for number, path in enumerate(videos):
        taken = itertools.islice(decode_video(path), 10, 10 + count)
        clips[f"{number:03d}"] = [noisy(np.ascontiguousarray(frame[:720, :1280]), rng) for frame in taken]
    return clips


def pictures(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Pictures of 2040x1356, the usual size of DIV2K, out of frames: enlarged, with noise of their own."""
    rng = np.random.default_rng(1)
    return [noisy(cv2.resize(frame, (2040, 1356), interpolation=cv2.INTER_CUBIC), rng) for frame in frames]


def write_folder(clips: dict[str, list[np.ndarray]], root: Path, level: int = 6) -> None:
    """PNG files ``clip/00000000.png``, packed as image tools usually do."""
    for name, frames in clips.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(frames):
            path = root / name / f"{index:08d}.png"
            cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, level])
