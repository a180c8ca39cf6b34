"""Opening a video, telling what it is, refusing what cannot be upscaled well, and reading its frames as RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.data.prepare.decode_video import missing_seconds, promised_bytes, said_seconds, tagged_seconds
from kdsr_arch.errors import UserError
from kdsr_arch.io import limit_decoder

_HDR = {16: "HDR10 (PQ)", 18: "HLG"}  # transfer functions, ISO/IEC 23091-2
_UNKNOWN = (0, 2, None)
_BT709, _BT601, _FULL = 1, 5, 2
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # matrix coefficients -> swscale's tables
_HD_LINES = 720  # without a tag players take BT.709 from here on, BT.601 below


class Frame(NamedTuple):
    """A decoded frame: its time in the stream's units, how long it is shown (0: unknown), (h, w, 3) RGB."""

    pts: int
    duration: int
    image: NDArray


@dataclass(frozen=True)
class VideoInfo:
    """What a video stream is.

    Attributes:
        path: the file.
        width, height: of the stored frames, before any rotation.
        time_base: seconds per unit of time.
        rate: mean frames per second.
        frames: their number as the file tells it; 0 where it does not.
        pix_fmt: the pixel format.
        depth: bits per component.
        tags: (primaries, transfer, matrix, range) as the file tells them.
        matrix: swscale's table for YUV <-> RGB, guessed from the height where the file does not tell.
        full_range: YUV in 0..255 instead of 16..235.
        aspect: of one pixel, or None.
        display_matrix: how players turn the frames, as nine 32-bit numbers, or None.
        seconds: length as the file tells it, or None.
        start: time of the first frame.
        streams: codecs of the other streams, by their kind.
    """

    path: Path
    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    frames: int
    pix_fmt: str
    depth: int
    tags: tuple[int, int, int, int]
    matrix: int
    full_range: bool
    aspect: Fraction | None
    display_matrix: tuple[int, ...] | None
    seconds: float | None
    start: int
    streams: dict[str, list[str]]

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Whole numbers that hold a component of an RGB frame: uint8, or uint16 for more than 8 bits."""
        return np.uint8 if self.depth <= 8 else np.uint16


def import_av() -> Any:
    """Import PyAV, or say how to get it."""
    try:
        import av
    except ImportError:
        raise UserError("videos need the package 'av': pip install 'kdsr[video]'") from None
    return av


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open the file as PyAV's container; errors of its decoder become sentences."""
    av = import_av()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        raise UserError(
            f"{path}: truncated, damaged or no video ({error.strerror or error}); copy or download it again"
        ) from None


def probe(path: Path, partial: bool = False) -> VideoInfo:
    """Describe a video by its header and its first frame.

    Args:
        path: the file.
        partial: take a file that is cut short.

    Raises:
        UserError: no video stream, HDR, interlaced, truncated, or nothing that decodes.
    """
    with opened(path) as container:
        stream = _video_stream(container, path)
        promised = None if partial else promised_bytes(container, stream)
        if promised is not None:  # its index points beyond the end of the file; said before hours of work
            raise UserError(
                f"{path}: truncated: its index ends at byte {promised:,}, the file at {container.size:,}; copy "
                "or download it again, or say --partial to upscale what is there"
            )
        first = next(container.decode(stream), None)
        if first is None:
            raise UserError(f"{path}: not one frame of its video can be decoded; the file is truncated or damaged")
        tags = _tags(stream.codec_context, first)
        if tags[1] in _HDR:
            raise UserError(
                f"{path}: is HDR, {_HDR[tags[1]]}, which the networks were not made for; convert it to SDR "
                "first (ffmpeg's filters zscale and tonemap do)"
            )
        if first.interlaced_frame:
            raise UserError(f"{path}: is interlaced; deinterlace it first (ffmpeg -vf bwdif)")
        return _info(path, container, stream, first, tags)


def _video_stream(container: Any, path: Path) -> Any:
    # a picture that music files carry counts as video with FFmpeg
    streams = [s for s in container.streams.video if "attached_pic" not in str(s.disposition).lower()]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise UserError(f"{path}: has no video stream (it holds {kinds})")
    limit_decoder(streams[0], path)
    streams[0].thread_type = "AUTO"
    return streams[0]


def _tags(context: Any, frame: Any) -> tuple[int, int, int, int]:
    def known(name: str) -> int:
        value = getattr(context, name, None)
        return int(getattr(frame, name, 2) if value in _UNKNOWN else value)

    return known("color_primaries"), known("color_trc"), known("colorspace"), known("color_range")


def _info(path: Path, container: Any, stream: Any, frame: Any, tags: tuple[int, int, int, int]) -> VideoInfo:
    pix_fmt = frame.format.name
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    matrix = _MATRICES.get(tags[2], _BT709 if min(frame.height, frame.width) >= _HD_LINES else _BT601)
    frames = int(stream.frames) or round((tagged_seconds(stream) or 0) * rate)
    kinds: dict[str, list[str]] = {}
    for other in container.streams:
        if other is not stream and other.type in ("audio", "subtitle"):
            kinds.setdefault(other.type, []).append(other.codec_context.name if other.codec_context else "unknown")
    return VideoInfo(
        path=path, width=frame.width, height=frame.height, time_base=stream.time_base, rate=Fraction(rate),
        frames=frames, pix_fmt=pix_fmt, depth=max(part.bits for part in frame.format.components),
        tags=tags, matrix=matrix, full_range=tags[3] == _FULL or pix_fmt.startswith("yuvj"),
        aspect=stream.sample_aspect_ratio or None, display_matrix=_display_matrix(frame),
        seconds=said_seconds(container, stream), start=int(stream.start_time or 0), streams=kinds,
    )  # fmt: skip


def _display_matrix(frame: Any) -> tuple[int, ...] | None:
    for data in frame.side_data:
        if "DISPLAYMATRIX" in str(data.type).upper():
            return tuple(int(value) for value in np.frombuffer(bytes(data), np.int32)[:9])
    return None


class Decoder:
    """Reads the frames of a probed video in order.

    Args:
        info: from `probe`.
        partial: end quietly where the file breaks off, instead of raising.
    """

    def __init__(self, info: VideoInfo, partial: bool = False) -> None:
        self.info, self.partial = info, partial
        self.broken: str | None = None

    def frames(self, start: int | None = None) -> Iterator[Frame]:
        """Decode the frames from time ``start`` on (all by default); times strictly increase.

        Raises:
            UserError: the file breaks off or is damaged, unless `partial`.
        """
        count, last = 0, None
        try:
            with opened(self.info.path) as container:
                stream = _video_stream(container, self.info.path)
                for raw in self._raw(container, stream, start):
                    if (raw.width, raw.height) != (self.info.width, self.info.height):
                        raise UserError(
                            f"{self.info.path}: the frame size changes from {self.info.width}x"
                            f"{self.info.height} to {raw.width}x{raw.height} at {raw.time:.2f} s; cut it "
                            "there"
                        )
                    pts = self._pts(raw, last)
                    if start is None or pts >= start:
                        count, last = count + 1, pts
                        yield Frame(pts, int(raw.duration or 0), self._rgb(raw))
            self._check_end(last)
        except UserError as error:
            if not self.partial or not count:
                raise
            self.broken = str(error)

    def _raw(self, container: Any, stream: Any, start: int | None) -> Iterator[Any]:
        """Decoded frames; with ``start``, from the key frame before it."""
        if start is None:
            yield from container.decode(stream)
            return
        container.seek(start, stream=stream, backward=True)
        decoded = container.decode(stream)
        first = next(decoded, None)
        if first is None or first.pts is None or first.pts > start:  # the index is off: read from the beginning
            container.seek(stream.start_time or 0, stream=stream, backward=True)
            decoded = container.decode(stream)
            first = next(decoded)
        yield first
        yield from decoded

    def _pts(self, raw: Any, last: int | None) -> int:
        if raw.pts is not None and (last is None or raw.pts > last):
            return int(raw.pts)
        step = max(round(1 / (self.info.rate * self.info.time_base)), 1)
        return 0 if last is None else last + step if raw.pts is None else last + 1

    def _rgb(self, raw: Any) -> NDArray:
        info = self.info
        levels = 2 if info.full_range else 1
        yuv = {} if raw.format.is_rgb else {"src_colorspace": info.matrix, "src_color_range": levels}
        form = "rgb24" if info.dtype == np.uint8 else "rgb48le"
        rgb = raw.reformat(format=form, dst_colorspace=info.matrix, dst_color_range=2, interpolation="BICUBIC", **yuv)
        return rgb.to_ndarray()

    def _check_end(self, last: int | None) -> None:
        """A file without an index simply ends: then its length tells whether all of it was there."""
        info = self.info
        if last is None:
            return
        ended = float((last - info.start) * info.time_base) + 1 / float(info.rate)
        if missing_seconds(info.seconds, ended):
            raise UserError(
                f"{info.path}: truncated: it should last {info.seconds:.1f} s, but its frames end after "
                f"{ended:.1f} s; copy or download it again, or say --partial to upscale what is there"
            )
