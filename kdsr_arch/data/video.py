"""Frames of video files, through PyAV."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from kdsr_arch.errors import UserError

__all__ = ["VIDEO_SUFFIXES", "crop_to_multiple", "decode_video", "halve"]

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg"})


def decode_video(path: str | Path, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """Yields the frames ``start`` to ``stop`` (exclusive) of a video as uint8 (H, W, 3) RGB.

    Raises:
        UserError: PyAV is missing, or the file is no video or breaks off.
    """
    try:
        import av
    except ImportError:
        raise UserError("reading videos needs the package 'av': pip install av") from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: has no video stream")
            for frame in itertools.islice(container.decode(video=0), start, stop):
                yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot be decoded as a video ({error.strerror or error})") from None


def halve(frame: np.ndarray) -> np.ndarray:
    """Half the size by the mean of 2x2 pixels, which takes compression noise away; an odd last row or column goes."""
    height, width = frame.shape[0] // 2, frame.shape[1] // 2
    return cv2.resize(frame[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)


def crop_to_multiple(frame: np.ndarray, multiple: int) -> np.ndarray:
    """The centre of a frame, of the largest height and width that are multiples of ``multiple``."""
    height, width = (n - n % multiple for n in frame.shape[:2])
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return np.ascontiguousarray(frame[top : top + height, left : left + width])
