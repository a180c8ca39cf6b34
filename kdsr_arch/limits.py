"""How large what is read from a file may be, so that a header alone cannot ask for all memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kdsr_arch.errors import UserError

MAX_PIXELS = 178_956_970
"""Pixels of one image or video frame: 13,377 x 13,377. Pillow refuses images beyond this by itself."""


def limit_opencv() -> None:
    """Let OpenCV refuse larger images as well; to be called before it is first imported. A user's own limit stays."""
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))


def limit_decoder(stream: Any, path: str | Path) -> None:
    """Let FFmpeg refuse larger frames of a video stream (PyAV's) before it makes room for them.

    Raises:
        UserError: there is no decoder for the stream.
    """
    if stream.codec_context is None:
        raise UserError(f"{path}: its video is in a format that cannot be decoded here; convert it to H.264")
    stream.codec_context.options = {**stream.codec_context.options, "max_pixels": str(MAX_PIXELS)}


def too_large(height: int, width: int) -> bool:
    """Whether an image of this size is beyond what is read."""
    return height * width > MAX_PIXELS
