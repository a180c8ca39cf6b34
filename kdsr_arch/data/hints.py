"""What a conversion would bring to training from image files: measured on a frame of theirs, said once."""

from __future__ import annotations

import time

import numpy as np

from kdsr_arch.data.notices import notice
from kdsr_arch.data.sources import FolderSource, FrameSource, LmdbSource
from kdsr_arch.data.store.codec import codec_named, codec_of
from kdsr_arch.data.window import Window
from kdsr_arch.errors import UserError

__all__ = ["hint_at_conversion"]

_WORTH_IT = 1.5


def hint_at_conversion(source: FrameSource, key: str, patch: int) -> None:
    """Says, once for a data root, how much faster crops of ``patch`` pixels come out of tiles than out of its files.

    Nothing is said of a source that is cached or tiled, or where it would bring little.
    """
    if not isinstance(source, (FolderSource, LmdbSource)) or not patch:
        return
    try:
        data = source.encoded(key)
        if codec_of(data).described(data[:64]) != "image files":
            return
        whole, tiled = _seconds(data, source.where(key), patch)
    except UserError:
        return  # what is wrong with the frame is told when it is read
    if whole < _WORTH_IT * tiled:
        return
    command = "convert" if isinstance(source, LmdbSource) else "create"
    notice(
        f"convert {source.name}",
        f"{source.name}: each crop of {patch} pixels decodes a whole frame ({1e3 * whole:.0f} ms); from tiles it takes "
        f"{1e3 * tiled:.1f} ms. To convert once: kdsr lmdb {command} {source.name} NAME.lmdb",
    )


def _seconds(data: bytes, name: str, patch: int) -> tuple[float, float]:
    """Of a whole decoding, and of a crop out of tiles (made for the part around the crop only)."""
    begin = time.perf_counter()
    frame = codec_of(data).decode(data, name)
    whole = time.perf_counter() - begin
    edge = 128
    part = np.ascontiguousarray(frame[: patch + edge, : patch + edge])
    codec = codec_named("webp", edge)
    value = codec.encode(part)
    height, width = (min(patch, side) for side in part.shape[:2])
    window = Window((part.shape[0] - height) // 2, (part.shape[1] - width) // 2, height, width)
    codec.decode(value, name, window)  # warm
    begin = time.perf_counter()
    codec.decode(value, name, window)
    return whole, time.perf_counter() - begin
