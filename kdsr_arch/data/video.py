"""Frames of video files, through PyAV."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from kdsr_arch.data.sources import FrameSource
from kdsr_arch.data.window import Window
from kdsr_arch.errors import UserError

__all__ = ["VIDEO_SUFFIXES", "StreamSource", "crop_to_multiple", "decode_video", "halve", "take"]

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


def take(frames: Iterable[np.ndarray], span: tuple[int | None, int | None]) -> Iterable[np.ndarray]:
    """The frames of a slice; a negative bound counts from the end, as in Python."""
    start, stop = span
    if (start or 0) < 0 or (stop or 0) < 0:
        return list(frames)[start:stop]
    return itertools.islice(frames, start or 0, stop)


class StreamSource(FrameSource):
    """Frames that come one after the other, such as a video's: keys ``00000000``, ``00000001``, ...

    They are asked for in order; how many there are is known at the end.

    Args:
        start: gives the frames from the first on.
        name: for messages: the file.
        mark: changes when the file does.
    """

    def __init__(self, start: Callable[[], Iterable[np.ndarray]], name: str, mark: str = "") -> None:
        self.name, self._start, self._mark = name, start, mark
        self._frames: Iterator[np.ndarray] | None = None
        self._next = 0
        self._last: np.ndarray | None = None

    def keys(self) -> list[str]:
        return list(self)

    def __iter__(self) -> Iterator[str]:
        """Keys, each once its frame is known to exist."""
        for number in itertools.count():
            if not self._advance(number):
                return
            yield f"{number:08d}"

    def _advance(self, number: int) -> bool:
        if self._frames is None or number < self._next - 1:
            self._frames, self._next = iter(self._start()), 0
        while self._next <= number:
            self._last = next(self._frames, None)
            if self._last is None:
                return False
            self._next += 1
        return True

    def size(self, key: str) -> tuple[int, int]:
        frame = self.get(key)
        return frame.shape[0], frame.shape[1]

    def get(self, key: str, window: Window | None = None) -> np.ndarray:
        if not self._advance(int(key)):
            raise UserError(f"{self.name}: has no frame {int(key)}")
        assert self._last is not None
        return window.of(self._last) if window else self._last

    def stamp(self, key: str) -> str:
        return f"{key} {self._mark}"
