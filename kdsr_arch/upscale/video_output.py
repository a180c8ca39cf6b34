"""Encoding upscaled frames, and putting them together with the other streams of the input."""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.data.prepare.decode_video import import_av, open_video, video_stream
from kdsr_arch.data.prepare.video_color import FULL, UNKNOWN
from kdsr_arch.errors import UserError, nearest
from kdsr_arch.upscale.segments import Encoded, Segment
from kdsr_arch.upscale.video_input import VideoInfo, opened, rgb_format

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_WITH_ALPHA = ("ffv1", "prores_ks", "qtrle")  # VP9 and HEVC keep transparency beside their packets, which is lost here
_BASE_LIMIT = 65535  # denominators of the frame rate that MPEG-4 can write
_TAG_OF_TABLE = {1: (1, 1, 1), 5: (6, 6, 6)}  # (primaries, transfer, matrix) of HD and SD video


@dataclass(frozen=True)
class Coding:
    """How frames are encoded.

    Attributes:
        codec: FFmpeg's name of the encoder.
        pix_fmt: the pixel format written.
        options: the encoder's.
        width, height: of the frames written.
    """

    codec: str
    pix_fmt: str
    options: dict[str, str]
    width: int
    height: int


def choose_coding(info: VideoInfo, scale: int, codec: str | None, crf: int, preset: str) -> Coding:
    """Choose encoder and pixel format of an upscaled video: the input's depth and chroma where the encoder has them.

    Args:
        codec: an encoder; None: libx264, or mpeg4 where PyAV lacks it.
        crf: quality of encoders that have it (lower is better); a quantizer for mpeg4.
        preset: speed of x264 and x265.

    Raises:
        UserError: no such encoder.
    """
    av = import_av()
    name = codec or ("libx264" if "libx264" in av.codecs_available else "mpeg4")
    try:
        encoder = av.codec.Codec(name, "w")
        formats = [fmt.name for fmt in encoder.video_formats or ()]
    except (av.FFmpegError, ValueError, AttributeError):
        formats = []
    if not formats:
        known = [
            c for c in ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "mpeg4", "ffv1") if c in av.codecs_available
        ]
        raise UserError(
            f"--codec {name}: no such video encoder in PyAV{nearest(name, known)}; it has {', '.join(known)}"
        )
    pix_fmt = next((f for f in _wanted_formats(info, name) if f in formats), formats[0])
    unit = 1 if _chroma(pix_fmt) == "444" else 2
    width, height = (n * scale // unit * unit for n in (info.width, info.height))
    return Coding(name, pix_fmt, _options(name, crf, preset), width, height)


def _wanted_formats(info: VideoInfo, codec: str) -> list[str]:
    """List pixel formats for an input, the best first."""
    chroma, deep = _chroma(info.pix_fmt), info.depth > 8
    wanted = []
    if has_alpha(info.pix_fmt) and codec in _WITH_ALPHA:
        as_rgb = ["gbrap16le"] if deep else ["rgba", "argb", "bgra"]
        wanted = [info.pix_fmt, *(as_rgb if import_av().VideoFormat(info.pix_fmt).is_rgb else [])]
        wanted += [*([f"yuva{chroma}p10le"] if deep else []), f"yuva{chroma}p", "yuva444p10le"]
    # never as gray, of which swscale and players disagree whether it is 0..255 or 16..235
    same = [] if "gray" in info.pix_fmt else [info.pix_fmt.replace("yuvj", "yuv").replace("yuva", "yuv")]
    deeper = [f"yuv{chroma}p10le", "yuv420p10le"] if deep else []
    return [*wanted, *same, *deeper, f"yuv{chroma}p", "yuv420p"]


def has_alpha(pix_fmt: str) -> bool:
    """Tell whether a pixel format has transparency."""
    return any(part.is_alpha for part in import_av().VideoFormat(pix_fmt).components)


def _chroma(pix_fmt: str) -> str:
    """Name the chroma of a pixel format, as far as encoders share it: 444, which RGB has too, 422 or 420."""
    form = import_av().VideoFormat(pix_fmt, 16, 16)
    if len(form.components) < 3 and pix_fmt != "pal8":
        return "420"  # gray
    return {(16, 16): "444", (8, 16): "422"}.get((form.chroma_width(16), form.chroma_height(16)), "420")


def losses(info: VideoInfo, coding: Coding) -> list[str]:
    """List what the written video lacks of the input, as sentences."""
    form = import_av().VideoFormat(coding.pix_fmt)
    depth = max(part.bits for part in form.components)
    lost = []
    if info.alpha and not has_alpha(coding.pix_fmt):
        advice = "" if not has_alpha(info.pix_fmt) else f"; --codec {' or '.join(_WITH_ALPHA)} keeps it"
        lost.append(f"its transparency is lost: colors are written as if it were opaque{advice}")
    if depth < info.depth:
        lost.append(f"{coding.codec} writes {depth} of its {info.depth} bits a color")
    if (given := _chroma(info.pix_fmt)) > (made := _chroma(coding.pix_fmt)):
        lost.append(
            f"{coding.codec} writes its colors {given[0]}:{given[1]}:{given[2]} as {made[0]}:{made[1]}:{made[2]}"
        )
    return lost


def _options(codec: str, crf: int, preset: str) -> dict[str, str]:
    """The encoder's options; no hidden frames, which would not count as frames."""
    if codec == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it prints its life story otherwise
    fast = {"b:v": "0", "deadline": "realtime", "cpu-used": "5", "row-mt": "1"}
    options = {
        "libx264": {"crf": str(crf), "preset": preset},
        "libx265": {"crf": str(crf), "preset": preset, "x265-params": "log-level=error"},
        "libsvtav1": {"crf": str(crf), "preset": "8", "svtav1-params": "enable-overlays=0"},
        "libvpx-vp9": {"crf": str(crf), **fast, "auto-alt-ref": "0"},
        "mpeg4": {"qmin": "2", "qmax": str(max(2, crf // 5)), "flags": "+qscale", "global_quality": str(118 * 3)},
    }
    return options.get(codec, {})


def _configure(context: Any, info: VideoInfo, coding: Coding) -> None:
    context.width, context.height, context.pix_fmt = coding.width, coding.height, coding.pix_fmt
    context.time_base = 1 / frame_rate(info)
    context.options = dict(coding.options)
    context.flags |= 1 << 22  # AV_CODEC_FLAG_GLOBAL_HEADER: parameter sets go to the head of the file
    tags = _written_tags(info, is_rgb=context.format.is_rgb)
    context.color_primaries, context.color_trc, context.colorspace, context.color_range = tags
    if info.aspect:
        context.sample_aspect_ratio = info.aspect


def frame_rate(info: VideoInfo) -> Fraction:
    """Compute the mean frames per second, as a fraction that every encoder can write."""
    rate = Fraction(info.rate)
    return rate if rate.numerator <= _BASE_LIMIT else 1 / (1 / rate).limit_denominator(_BASE_LIMIT)


def _written_tags(info: VideoInfo, is_rgb: bool) -> tuple[int, int, int, int]:
    """The input's tags; what it leaves open is written as it was read: players would guess anew by the new height."""
    primaries, transfer, matrix, _ = info.color.tags
    if is_rgb:
        return primaries, transfer, 0, FULL
    if matrix in UNKNOWN:
        guess = _TAG_OF_TABLE[info.color.table]
        primaries, transfer = (g if t in UNKNOWN else t for g, t in zip(guess, (primaries, transfer), strict=False))
        matrix = guess[2]
    return primaries, transfer, matrix, FULL if info.color.full_range else 1


class Encoder:
    """Encodes one segment of frames; packets come out with the frames' numbers.

    Each segment is encoded by a fresh encoder of the same settings, so that segments join without re-encoding.
    """

    def __init__(self, info: VideoInfo, coding: Coding) -> None:
        av = import_av()
        self._av, self.info, self.coding = av, info, coding
        self._context = av.codec.CodecContext.create(coding.codec, "w")
        _configure(self._context, info, coding)
        self._count = 0
        try:
            self._context.open()
        except av.FFmpegError as error:
            raise UserError(
                f"encoder {coding.codec} refuses {coding.width}x{coding.height} pixels of "
                f"{coding.pix_fmt} with {coding.options} ({error.strerror or error})"
            ) from None

    def add(self, image: NDArray) -> list[Encoded]:
        """Encode (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16; returns what is ready."""
        coding, info = self.coding, self.info
        image = np.ascontiguousarray(image[: coding.height, : coding.width])
        frame = self._av.VideoFrame.from_ndarray(image, format=rgb_format(image.dtype.type, image.shape[2] == 4))
        frame = frame.reformat(
            format=coding.pix_fmt,
            src_colorspace=info.color.table,
            dst_colorspace=info.color.table,
            src_color_range=FULL,
            dst_color_range=self._context.color_range,
            interpolation="BICUBIC",
        )
        frame.pts, frame.time_base = self._count, self._context.time_base
        self._count += 1
        return self._encoded(self._context.encode(frame))

    def finish(self) -> list[Encoded]:
        """Encode no more; returns what was still on its way."""
        return self._encoded(self._context.encode(None))

    @staticmethod
    def _encoded(packets: Iterable[Any]) -> list[Encoded]:
        return [Encoded(int(packet.pts), bool(packet.is_keyframe), bytes(packet)) for packet in packets if packet.size]


def check_format(path: Path, source: Path) -> None:
    """Refuse a name that stands for no container; ``source`` is the video.

    Raises:
        UserError: unknown suffix.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(
            f"{path}: {source.name} is no single picture, so it is read as a video or an animation, for which "
            f"'{path.suffix}' is no format to write; take one of {', '.join(FORMATS)}"
        )


def check_container(path: Path, info: VideoInfo, coding: Coding) -> None:
    """Refuse, before any work, settings that the encoder and streams that the container cannot take.

    Raises:
        UserError: which they are.
    """
    check_format(path, info.path)
    Encoder(info, coding)  # refuses impossible settings
    refusal = _refusal(path.suffix.lower(), info, coding)
    if refusal is None:
        return
    kinds = "; ".join(f"{kind} {', '.join(codecs)}" for kind, codecs in info.streams.items())
    other = next((suffix for suffix in (".mkv", ".mp4", ".mov") if _refusal(suffix, info, coding) is None), None)
    advice = f"write {other} instead" if other else "take another --codec, or take streams out of the input first"
    raise UserError(
        f"{path}: {path.suffix} cannot hold {coding.codec} video with the input's streams "
        f"({kinds or 'video only'}; {refusal}); {advice}"
    )


def _refusal(suffix: str, info: VideoInfo, coding: Coding) -> str | None:
    """Return why a container cannot hold the output's streams, in FFmpeg's words; None where it can."""
    av = import_av()
    with opened(info.path) as source:
        try:
            with open_video(os.devnull, "w", FORMATS[suffix]) as out:
                _prepare(out, source, info, coding)
        except (av.FFmpegError, ValueError) as error:
            return str(getattr(error, "strerror", None) or error)
    return None


def _prepare(out: Any, source: Any, info: VideoInfo, coding: Coding) -> tuple[Any, dict[int, Any]]:
    """The streams of the output, its head written: the video stream, and the copied ones by the input's index."""
    video = out.add_stream(coding.codec, rate=frame_rate(info))
    _configure(video.codec_context, info, coding)
    video.time_base = info.time_base
    if info.display_matrix is not None:
        video.set_display_matrix(info.display_matrix)
    given = video_stream(source, info.path)
    video.disposition = given.disposition.value
    video.metadata.update({k: v for k, v in given.metadata.items() if k.lower() in ("language", "title")})
    copied = {}
    for stream in source.streams:
        if stream.type in ("audio", "subtitle"):
            copied[stream.index] = copy = out.add_stream_from_template(stream)
            copy.disposition = stream.disposition.value  # which sound is the default, which subtitles are forced
            copy.metadata.update({k: v for k, v in stream.metadata.items() if k.upper() not in ("DURATION", "ENCODER")})
    out.metadata.update({k: v for k, v in source.metadata.items() if k.lower() not in ("encoder", "duration")})
    if source.chapters():
        out.set_chapters(source.chapters())
    out.start_encoding()
    return video, copied


def assemble(target: Path, info: VideoInfo, coding: Coding, segments: Sequence[Segment]) -> None:
    """Write the whole file: the segments' frames, and audio and subtitles as they are in the input.

    Args:
        target: where to write; its format is that of its suffix.
        segments: the encoded frames, in order.

    Raises:
        UserError: the input cannot be read, or the file not written.
    """
    av = import_av()
    part = target.with_name(f".{target.name}.part")
    try:
        with opened(info.path) as source, _written(av, target, part) as out:
            video, copied = _prepare(out, source, info, coding)
            packets = _video_packets(av, video, info, segments)
            for _, _, packet in heapq.merge(packets, _other_packets(source, copied), key=lambda item: item[:2]):
                out.mux(packet)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _written(av: Any, target: Path, part: Path) -> Iterator[Any]:
    try:
        with open_video(part, "w", FORMATS[target.suffix.lower()]) as out:
            yield out
    except av.FFmpegError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from None


def decode_times(times: Sequence[int], order: Sequence[int]) -> list[int]:
    """Make decoding times for frames that are stored in ``order`` (their numbers) and shown at ``times``.

    They strictly increase, none is later than its frame's time, and they lag as little as the order allows.
    """
    lag = max((k - number for k, number in enumerate(order)), default=0)
    lead = max(times[1] - times[0], 1) if len(times) > 1 else 1
    return [times[k - lag] if k >= lag else times[0] - (lag - k) * lead for k in range(len(order))]


def _video_packets(
    av: Any, video: Any, info: VideoInfo, segments: Sequence[Segment]
) -> Iterator[tuple[float, int, Any]]:
    times = [time for segment in segments for time in segment.times]
    # each frame is shown until the next; the last as the file tells it, or one step of the mean rate
    last = segments[-1].durations[-1] or max(round(1 / (info.rate * info.time_base)), 1)
    durations = [later - sooner for sooner, later in itertools.pairwise(times)] + [last]
    firsts = list(itertools.accumulate((len(segment.times) for segment in segments), initial=0))
    order = [first + number for first, segment in zip(firsts, segments, strict=False) for number in segment.numbers]
    dts = decode_times(times, order)
    for k, frame in enumerate(frame for segment in segments for frame in segment.frames()):
        packet = av.Packet(frame.data)
        packet.pts, packet.dts, packet.time_base = times[order[k]], dts[k], info.time_base
        packet.duration, packet.is_keyframe, packet.stream = durations[order[k]], frame.key, video
        yield float(dts[k] * info.time_base), video.index, packet


def _other_packets(source: Any, copied: dict[int, Any]) -> Iterator[tuple[float, int, Any]]:
    if not copied:
        return
    streams = [source.streams[index] for index in copied]
    latest = 0.0
    for packet in source.demux(streams):
        if packet.dts is None and not packet.size:
            continue
        stream = copied[packet.stream_index]
        when = packet.dts if packet.dts is not None else packet.pts
        latest = max(latest, float(when * packet.time_base)) if when is not None else latest
        packet.stream = stream
        yield latest, stream.index, packet
