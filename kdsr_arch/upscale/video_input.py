"""Opening a video, telling what it is, refusing what cannot be upscaled well, and reading its frames as RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.data.prepare.decode_video import (
    decoded_frames,
    import_av,
    open_video,
    promised_bytes,
    said_seconds,
    tagged_seconds,
    too_much_missing,
    video_stream,
)
from kdsr_arch.data.prepare.video_color import VideoColor
from kdsr_arch.errors import UserError

_ADVICE = "; copy or download it again, or say --partial to upscale what is there"
_BURST = 32  # frames decoded of a group of pictures at least, where half of them are wanted
_HDR = {16: "HDR10 (PQ)", 18: "HLG"}  # transfer functions, ISO/IEC 23091-2


class Frame(NamedTuple):
    """A decoded frame: its time in the stream's units, how long it is shown (0: unknown), (h, w, 3) RGB or RGBA."""

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
        color: how its colors are stored.
        alpha: whether it has transparency.
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
    color: VideoColor
    alpha: bool
    aspect: Fraction | None
    display_matrix: tuple[int, ...] | None
    seconds: float | None
    start: int
    streams: dict[str, list[str]]

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Whole numbers that hold a component of an RGB frame: uint8, or uint16 for more than 8 bits."""
        return np.uint8 if self.depth <= 8 else np.uint16


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open the file as PyAV's container; errors of its decoder become sentences."""
    try:
        with open_video(path) as container:
            yield container
    except import_av().FFmpegError as error:
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
        stream = video_stream(container, path)
        promised = None if partial else promised_bytes(container, stream)
        if promised is not None:  # its index points beyond the end of the file; said before hours of work
            raise UserError(
                f"{path}: truncated: its index ends at byte {promised:,}, the file at {container.size:,}{_ADVICE}"
            )
        first = next(decoded_frames(container, stream, lambda _: None), None)
        if first is None:
            raise UserError(f"{path}: not one frame of its video can be decoded; the file is truncated or damaged")
        color = VideoColor.of(path, stream.codec_context, first)
        if color.tags[1] in _HDR:
            raise UserError(
                f"{path}: is HDR, {_HDR[color.tags[1]]}, which the networks were not made for; convert it to SDR "
                "first (ffmpeg's filters zscale and tonemap do)"
            )
        return _info(path, container, stream, first, color)


def _info(path: Path, container: Any, stream: Any, frame: Any, color: VideoColor) -> VideoInfo:
    pix_fmt = frame.format.name
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    frames = int(stream.frames) or round((tagged_seconds(stream) or 0) * rate)
    kinds: dict[str, list[str]] = {}
    for other in container.streams:
        if other is not stream and other.type in ("audio", "subtitle"):
            kinds.setdefault(other.type, []).append(other.codec_context.name if other.codec_context else "unknown")
    # VP8 and VP9 keep transparency beside the stream, where FFmpeg's own decoders leave it
    alpha = any(part.is_alpha for part in frame.format.components) or stream.metadata.get("alpha_mode") == "1"
    return VideoInfo(
        path=path, width=frame.width, height=frame.height, time_base=stream.time_base, rate=Fraction(rate),
        frames=frames, pix_fmt=pix_fmt, depth=max(part.bits for part in frame.format.components),
        color=color, alpha=alpha, aspect=stream.sample_aspect_ratio or None, display_matrix=_display_matrix(frame),
        seconds=said_seconds(container, stream), start=int(stream.start_time or 0), streams=kinds,
    )  # fmt: skip


def _display_matrix(frame: Any) -> tuple[int, ...] | None:
    for data in frame.side_data:
        if "DISPLAYMATRIX" in str(data.type).upper():
            return tuple(int(value) for value in np.frombuffer(bytes(data), np.int32)[:9])
    return None


def rgb_format(dtype: type[np.unsignedinteger], alpha: bool) -> str:
    """Return FFmpeg's name of RGB, with or without alpha, in whole numbers of a type."""
    return ("rgba" if alpha else "rgb24") if dtype == np.uint8 else ("rgba64le" if alpha else "rgb48le")


Share = Literal["all", "half", "key"]
"""Which frames are decoded: all; of each group of pictures the first ones, in all about half; key frames alone."""


class _Halves:
    """Chooses packets: the first of each group of pictures, and of short groups every other one, in all about half.

    Args:
        decoder: of the stream; it forgets what came before a gap.

    Attributes:
        resumed: time of the last key frame before which packets were left out; frames before it may refer to those.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._seen = self._taken = self._group = self._before = 0
        self._on, self._gap = True, False
        self.resumed: int | None = None

    def __call__(self, packet: Any) -> bool:
        if not packet.size:  # the last one, on which the decoder gives what it holds back
            return True
        if packet.is_keyframe:
            self._before, self._group = self._group, 0
            self._on = 2 * self._taken <= self._seen
        self._group, self._seen = self._group + 1, self._seen + 1
        taken = self._on and self._group <= max(_BURST, self._before // 2)
        if taken and self._gap:
            self.resumed = packet.pts
            self._decoder.flush_buffers()
        self._gap = not taken
        self._taken += taken
        return taken


_WITH_AN_INDEX = ("mov", "matroska")
"""Containers that find the key frame before a time; others are read from the beginning."""


class Decoder:
    """Reads the frames of a probed video in order.

    Args:
        info: from `probe`.
        partial: end quietly where the file breaks off, and leave out what is damaged, instead of raising.
        progressive: take frames that the file says to be interlaced as they are.
        alpha: give RGBA.
        share: which frames to decode; key frames alone take a fraction of the time.

    Attributes:
        notes: what the user should know about the frames read so far, as sentences.
    """

    def __init__(
        self, info: VideoInfo, partial: bool = False, progressive: bool = False, alpha: bool = False,
        share: Share = "all",
    ) -> None:  # fmt: skip
        self.info, self.partial, self.progressive, self.share = info, partial, progressive, share
        self._form = rgb_format(info.dtype, alpha)
        self._broken: str | None = None
        self._lost: list[float] = []
        self._mended: list[float] = []

    @property
    def notes(self) -> list[str]:
        """Say what was lost, mended or not as the file said, as far as it is decoded."""
        notes = [self._broken] if self._broken else []
        if self._lost:
            notes.append(f"{self.info.path}: {self._damage()}; what could not be decoded is left out")
        if self._mended:
            notes.append(
                f"{self.info.path}: {len(self._mended)} of its frames are damaged, the first at {self._mended[0]:.2f} "
                "s; they were upscaled as the decoder mended them"
            )
        return notes

    def _damage(self) -> str:
        return f"{len(self._lost)} of its packets are damaged, the first at {self._lost[0]:.2f} s"

    def _lose(self, packet: Any) -> None:
        """Count a packet that cannot be decoded.

        Raises:
            UserError: too many are gone, unless `partial`.
        """
        info = self.info
        when = packet.pts if packet.pts is not None else packet.dts
        self._lost.append(float((when or info.start) * info.time_base))
        if not self.partial and too_much_missing(len(self._lost) / float(info.rate), info.seconds):
            raise UserError(f"{info.path}: {self._damage()}{_ADVICE}")

    def frames(self, start: int | None = None) -> Iterator[Frame]:
        """Decode the frames from time ``start`` on (all by default); times strictly increase.

        Raises:
            UserError: the file breaks off or is damaged, unless `partial`; its frames change size or are interlaced.
        """
        count, last = 0, None
        try:
            with opened(self.info.path) as container:
                stream = video_stream(container, self.info.path)
                if self.share == "key":
                    stream.codec_context.skip_frame = "NONKEY"
                for raw in self._raw(container, stream, start):
                    pts = self._pts(raw, last)
                    last = pts
                    if start is None or pts >= start:
                        self._look(raw, float(pts * self.info.time_base))
                        count += 1
                        yield Frame(pts, int(raw.duration or 0), self.info.color.rgb(raw, self._form))
            self._check_end(last)
        except UserError as error:
            if not self.partial or not count:
                raise
            self._broken = str(error).removesuffix(_ADVICE)  # which was followed

    def _look(self, raw: Any, seconds: float) -> None:
        """Refuse a frame of another kind than the first, and take note of a damaged one."""
        info = self.info
        if (raw.width, raw.height) != (info.width, info.height):
            raise UserError(
                f"{info.path}: the frame size changes from {info.width}x{info.height} to {raw.width}x{raw.height} at "
                f"{seconds:.2f} s; cut it there"
            )
        if raw.interlaced_frame and not self.progressive:
            raise UserError(
                f"{info.path}: is interlaced at {seconds:.2f} s; deinterlace it first (ffmpeg -vf bwdif), or say "
                "--progressive if its frames show no combs"
            )
        if raw.is_corrupt:
            self._mended.append(seconds)

    def _raw(self, container: Any, stream: Any, start: int | None) -> Iterator[Any]:
        """Decoded frames; with ``start``, from the key frame before it."""
        if self.share == "half":
            wanted = _Halves(stream.codec_context)
            for frame in decoded_frames(container, stream, self._lose, wanted):
                if None in (frame.pts, wanted.resumed) or frame.pts >= wanted.resumed:
                    yield frame
            return
        if start is None or container.format.name.partition(",")[0] not in _WITH_AN_INDEX:
            yield from decoded_frames(container, stream, self._lose)
            return
        container.seek(start, stream=stream, backward=True)
        decoded = decoded_frames(container, stream, self._lose)
        first = next(decoded, None)
        if first is None or first.pts is None or first.pts > start:  # the index is off: read from the beginning
            with opened(self.info.path) as again:
                yield from decoded_frames(again, video_stream(again, self.info.path), self._lose)
            return
        yield first
        yield from decoded

    def _pts(self, raw: Any, last: int | None) -> int:
        if raw.pts is not None and (last is None or raw.pts > last):
            return int(raw.pts)
        step = max(round(1 / (self.info.rate * self.info.time_base)), 1)
        return 0 if last is None else last + step if raw.pts is None else last + 1

    def _check_end(self, last: int | None) -> None:
        """A file without an index simply ends: then its length tells whether all of it was there."""
        info = self.info
        if last is None or info.seconds is None or self.share != "all":
            return
        ended = float((last - info.start) * info.time_base) + 1 / float(info.rate)
        if too_much_missing(info.seconds - ended, info.seconds):
            raise UserError(
                f"{info.path}: truncated: it should last {info.seconds:.1f} s, but its frames end after "
                f"{ended:.1f} s{_ADVICE}"
            )
