"""The colors of a video: how its file says that they are stored, what players take where it does not, and RGB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from kdsr_arch.errors import UserError

BT709, BT601, FULL = 1, 5, 2
UNKNOWN = (0, 2, 3)  # unspecified or reserved; as matrix, 0 is that of RGB
_TABLES = {1: BT709, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: 9, 10: 9}  # matrix coefficients -> swscale's tables


@dataclass(frozen=True)
class VideoColor:
    """How the colors of a video are stored.

    Attributes:
        tags: (primaries, transfer, matrix, range) as the file tells them, ISO/IEC 23091-2.
        table: swscale's table for YUV <-> RGB; guessed from the size where the file does not tell.
        full_range: YUV in 0..255 instead of 16..235.
    """

    tags: tuple[int, int, int, int]
    table: int
    full_range: bool

    @classmethod
    def of(cls, path: str | Path, context: Any, frame: Any) -> VideoColor:
        """Read them from a decoder and its first frame.

        Raises:
            UserError: a matrix that swscale does not know.
        """

        def known(name: str, unknown: tuple[int, ...] = UNKNOWN) -> int:
            value = int(getattr(context, name))
            return int(getattr(frame, name)) if value in unknown else value

        tags = known("color_primaries"), known("color_trc"), known("colorspace"), known("color_range", (0,))
        if tags[2] not in (*_TABLES, *UNKNOWN):
            raise UserError(
                f"{path}: its colors are stored in a way that cannot be read (matrix {tags[2]} of ISO/IEC 23091-2); "
                "convert it first (ffmpeg -vf scale=out_color_matrix=bt709)"
            )
        table = _TABLES.get(tags[2], guessed_table(frame.width, frame.height))
        return cls(tags, table, tags[3] == FULL or frame.format.name.startswith("yuvj"))

    def rgb(self, frame: Any, form: str = "rgb24") -> NDArray:
        """Convert a decoded frame to RGB; ``form`` is FFmpeg's name of the result's format."""
        levels = FULL if self.full_range else 1
        source = {} if frame.format.is_rgb else {"src_colorspace": self.table, "src_color_range": levels}
        target = {"dst_colorspace": self.table, "dst_color_range": FULL}
        return frame.reformat(format=form, interpolation="BICUBIC", **source, **target).to_ndarray()


def guessed_table(width: int, height: int) -> int:
    """Choose what players (mpv, VLC) take for video without a tag: BT.709 from 1280 wide or above 576 lines."""
    return BT709 if width >= 1280 or height > 576 else BT601
