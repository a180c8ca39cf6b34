"""How large what is read from a file may be, so that a header alone cannot ask for all memory."""

from __future__ import annotations

import os

MAX_PIXELS = 178_956_970
"""Pixels of one image or video frame: 13,377 x 13,377. Pillow refuses images beyond this by itself."""


def limit_opencv() -> None:
    """Let OpenCV refuse larger images as well; to be called before it is first imported. A user's own limit stays."""
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))


def too_large(height: int, width: int) -> bool:
    """Whether an image of this size is beyond what is read."""
    return height * width > MAX_PIXELS
