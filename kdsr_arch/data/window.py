"""Rectangles of frames."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kdsr_arch.errors import UserError

__all__ = ["Window", "check_window"]


class Window(NamedTuple):
    """A rectangle of a frame in pixels: top, left, height, width."""

    top: int
    left: int
    height: int
    width: int

    def scaled(self, factor: int) -> Window:
        """The same rectangle of a frame ``factor`` times as large."""
        return Window(self.top * factor, self.left * factor, self.height * factor, self.width * factor)

    def of(self, frame: np.ndarray) -> np.ndarray:
        """The view of a (H, W, ...) array under this window."""
        return frame[self.top : self.top + self.height, self.left : self.left + self.width]


def check_window(window: Window, size: tuple[int, int], name: str) -> None:
    """Raises UserError unless ``window`` lies inside a frame of ``size`` (H, W)."""
    top, left, height, width = window
    if min(top, left) < 0 or min(height, width) < 1 or top + height > size[0] or left + width > size[1]:
        raise UserError(
            f"{name}: a window of {height}x{width} at ({top}, {left}) does not fit a frame of {size[0]}x{size[1]}"
        )
