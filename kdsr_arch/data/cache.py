"""Decoded frames kept in memory that forked workers share."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import Any

import numpy as np

from kdsr_arch.data.sources import FrameSource
from kdsr_arch.data.store.codec import Window, check_window

__all__ = ["CachedSource", "frame_bytes"]


def frame_bytes(size: tuple[int, int]) -> int:
    """Bytes of a decoded frame of ``size`` (H, W)."""
    return size[0] * size[1] * 3


class CachedSource(FrameSource):
    """Keeps decoded frames of another source, up to a number of bytes; what does not fit is read each time.

    The memory is one anonymous map, filled as frames are first asked for. Worker processes forked later share it, so
    that a frame is decoded once for all of them and the limit holds for all of them together. Two workers that decode
    the same frame at once write the same bytes.

    Args:
        source: where frames come from.
        keys: the frames to keep, most wanted first.
        limit: bytes.
    """

    def __init__(self, source: FrameSource, keys: Iterable[str], limit: int) -> None:
        self.source = source
        self.name = source.name
        self._places: dict[str, tuple[int, int]] = {}  # key -> (number, offset)
        total = 0
        for key in dict.fromkeys(keys):  # a clip may be listed twice, to be drawn twice as often
            size = frame_bytes(source.size(key))
            if total + size > limit:
                break
            self._places[key] = (len(self._places), total)
            total += size
        self.bytes = total
        self._allocate()

    def _allocate(self) -> None:
        self._frames = mmap.mmap(-1, max(self.bytes, 1))
        self._filled = mmap.mmap(-1, max(len(self._places), 1))

    def __getstate__(self) -> dict[str, Any]:
        # A spawned (not forked) worker gets an empty cache of its own.
        return {k: v for k, v in self.__dict__.items() if k not in ("_frames", "_filled")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._allocate()

    def keys(self) -> list[str]:
        return self.source.keys()

    def size(self, key: str) -> tuple[int, int]:
        return self.source.size(key)

    def where(self, key: str) -> str:
        return self.source.where(key)

    def stamp(self, key: str) -> str:
        return self.source.stamp(key)

    def holds(self, key: str) -> bool:
        """Whether a frame is in memory, or will be once it was asked for."""
        return key in self._places

    def get(self, key: str, window: Window | None = None) -> np.ndarray:
        """A frame or a window of it, from memory where it is kept; as of any source."""
        if key not in self._places:
            return self.source.get(key, window)
        number, offset = self._places[key]
        height, width = self.size(key)
        place = np.frombuffer(self._frames, np.uint8, height * width * 3, offset).reshape(height, width, 3)
        if not self._filled[number]:
            place[...] = self.source.get(key)
            self._filled[number] = 1  # only now: another process must never see half a frame
        place.flags.writeable = False
        if window is None:
            return place
        check_window(window, (height, width), self.where(key))
        return window.of(place)
