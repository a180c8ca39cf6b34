"""Reading videos back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdsr_arch.upscale.video import VideoOptions
from kdsr_arch.upscale.video_input import Decoder, probe

av = pytest.importorskip("av", reason="needs the extra: pip install av")
LOSSLESS = VideoOptions(codec="ffv1")


def times(path: Path) -> list[float]:
    """Read the times of the frames in seconds."""
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def rgb(path: Path) -> np.ndarray:
    """Read what a player shows: FFmpeg's own reading of the tags."""
    return np.stack([frame.image for frame in Decoder(probe(path)).frames()])


def packets(path: Path, kind: str) -> list[tuple[float, bytes]]:
    """Read the times and bytes of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.size]
