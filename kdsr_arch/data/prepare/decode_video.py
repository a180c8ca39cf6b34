"""Frames of video files, through PyAV."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kdsr_arch.data.augment import Crop
from kdsr_arch.data.prepare.video_color import VideoColor
from kdsr_arch.data.sources import FrameSource
from kdsr_arch.errors import UserError, notice
from kdsr_arch.io import limit_decoder


def promised_bytes(container: Any, stream: Any) -> int | None:
    """Return the byte where the index of an MP4 or MOV file says that its frames end, if the file ends before it."""
    entries = getattr(stream, "index_entries", None)
    if not container.format.name.startswith("mov") or not entries or not container.size:
        return None
    last = entries[len(entries) - 1]
    return last.pos + last.size if last.pos + last.size > container.size else None


def import_av() -> Any:
    """Import PyAV, or say how to get it. Older ones read full-range colors wrongly and lose rotations."""
    try:
        import av
    except ImportError:
        raise UserError("videos need the package 'av': pip install 'kdsr[video]'") from None
    if tuple(int(part) for part in av.__version__.split(".")[:2]) < (17, 1):
        raise UserError(
            f"videos need the package 'av' 17.1 or later, not {av.__version__}: pip install -U 'kdsr[video]'"
        )
    return av


def open_video(path: str | Path, mode: str = "r", form: str | None = None) -> Any:
    """Open a video file as PyAV's container.

    FFmpeg takes what stands before a colon in a name for a protocol, but not in a whole path.
    """
    return import_av().open(os.path.abspath(path), mode, format=form, metadata_errors="replace")


def video_stream(container: Any, path: str | Path) -> Any:
    """Choose the video stream of a file.

    Raises:
        UserError: there is none, or none that can be decoded.
    """
    # a picture that music and film files carry counts as video with FFmpeg
    cover = import_av().stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        names = {"a cover picture" if stream.type == "video" else stream.type for stream in container.streams}
        kinds = ", ".join(sorted(names)) or "nothing"
        raise UserError(f"{path}: has no video stream (it holds {kinds})")
    limit_decoder(streams[0], path)
    return streams[0]


def said_seconds(container: Any, stream: Any) -> float | None:
    """Read the length in seconds that the video stream says; the file's where it holds nothing else."""
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)  # the duration is shortened where the file is cut
    if stream.duration:
        return float(stream.duration * stream.time_base)
    tagged = tagged_seconds(stream)
    if tagged is None and container.duration and len(container.streams) == 1:
        return container.duration / 1_000_000
    return tagged


def tagged_seconds(stream: Any) -> float | None:
    """Read the stream's tag DURATION in seconds, as Matroska files have it."""
    text = {key.upper(): value for key, value in stream.metadata.items()}.get("DURATION", "")
    try:
        hours, minutes, seconds = (float(part) for part in text.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def too_much_missing(seconds: float, promised: float | None) -> bool:
    """Return whether ``seconds`` are too much to miss of a file that says that it lasts ``promised``."""
    return seconds > max(1.0, 0.02 * (promised or 0))


def decoded_frames(
    container: Any, stream: Any, damaged: Callable[[Any], None], wanted: Callable[[Any], bool] = lambda packet: True
) -> Iterator[Any]:
    """Decode what can be decoded, and is wanted.

    Args:
        container, stream: of PyAV.
        damaged: is given each packet that cannot be decoded, or that its container calls corrupt.
        wanted: tells whether to decode a packet.
    """
    stream.thread_type = "SLICE"  # with frames in parallel PyAV loses those behind a damaged one without a word
    for packet in filter(wanted, container.demux(stream)):
        frames, corrupt = [], packet.is_corrupt
        try:
            frames = packet.decode()
        except import_av().error.InvalidDataError:
            corrupt = True
        if corrupt:
            damaged(packet)
        yield from frames


VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg"})


def decode_video(path: str | Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video as uint8 (H, W, 3) RGB, upright.

    Frames are taken for neighbors whenever they are shown. A frame rate that varies, and more than 8 bits rounded to 8,
    are warned of once per file.

    Raises:
        UserError: PyAV is missing, or the file is no video, breaks off or is truncated.
    """
    av = import_av()
    try:
        with open_video(path) as container:
            stream = video_stream(container, path)
            watch = _Watch(path, container, stream)
            color: VideoColor | None = None
            for frame in container.decode(stream):
                watch.see(frame)
                color = color or VideoColor.of(path, stream.codec_context, frame)
                image = color.rgb(frame)
                # phones keep frames lying on their side; counter-clockwise, as NumPy counts
                quarters = round(getattr(frame, "rotation", 0) / 90) % 4
                yield np.ascontiguousarray(np.rot90(image, quarters))
            watch.end()
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot be decoded as a video ({error.strerror or error})") from None


class _Watch:
    """Looks at the frames of a video as they are decoded; they are never held back.

    Args:
        container, stream: the file, opened with PyAV, and what is read of it.
    """

    def __init__(self, path: str | Path, container: Any, stream: Any) -> None:
        promised = promised_bytes(container, stream)
        if promised is not None:
            raise _truncated(path, f"its index ends at byte {promised:,}, the file at {container.size:,}")
        self.path, self.promised = path, said_seconds(container, stream)
        self.first: float | None = None
        self.last: float | None = None
        self.shortest = 0.0

    def see(self, frame: Any) -> None:
        """Take note of a frame."""
        depth = max(component.bits for component in frame.format.components)
        if depth > 8:
            notice(f"depth {self.path}", f"{self.path}: has {depth} bits a color; frames are rounded to 8 bits")
        if frame.interlaced_frame:
            notice(f"fields {self.path}", f"{self.path}: is interlaced; deinterlace it first (ffmpeg -vf bwdif)")
        if frame.is_corrupt:
            notice(
                f"damage {self.path}",
                f"{self.path}: has damaged frames, the first at {frame.time or 0:.2f} s; they are taken as the decoder "
                "mended them",
            )
        if frame.time is None:
            return
        if self.first is None or self.last is None:
            self.first = frame.time
        elif frame.time > self.last:
            step = frame.time - self.last
            low, high = (min(step, self.shortest), max(step, self.shortest)) if self.shortest else (step, step)
            if high > 1.5 * low:
                notice(
                    f"rate {self.path}",
                    f"{self.path}: its frame rate varies (frames last {low * 1e3:.0f} ms and {high * 1e3:.0f} ms); "
                    "they are taken one after the other",
                )
            self.shortest = low
        self.last = frame.time

    def end(self) -> None:
        """Raise UserError where the frames end long before the file says that they do."""
        if self.first is None or self.last is None:
            return
        ended = self.last - self.first + self.shortest
        if self.promised and too_much_missing(self.promised - ended, self.promised):
            raise _truncated(self.path, f"it should last {self.promised:.1f} s, but its frames end after {ended:.1f} s")


def _truncated(path: str | Path, how: str) -> UserError:
    return UserError(f"{path}: truncated: {how}; copy or download it again")


def halve(frame: np.ndarray) -> np.ndarray:
    """Halve by the mean of 2x2 pixels, which takes compression noise away; an odd last row or column goes."""
    height, width = frame.shape[0] // 2, frame.shape[1] // 2
    return cv2.resize(frame[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)


def crop_to_multiple(frame: np.ndarray, multiple: int) -> np.ndarray:
    """Cut the center of a frame, of the largest height and width that are multiples of ``multiple``."""
    height, width = (n - n % multiple for n in frame.shape[:2])
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return np.ascontiguousarray(frame[top : top + height, left : left + width])


def take(frames: Iterable[np.ndarray], span: tuple[int | None, int | None]) -> Iterable[np.ndarray]:
    """Take the frames of a slice; a negative bound counts from the end, as in Python."""
    start, stop = span
    if (start or 0) < 0 or (stop or 0) < 0:
        return list(frames)[start:stop]
    return itertools.islice(frames, start or 0, stop)


class StreamSource(FrameSource):
    """Frames that come one after the other, such as a video's: keys ``00000000``, ``00000001``, ...

    They are asked for in order; how many there are is known at the end.

    Args:
        start: gives the frames from the first on.
        name: for messages: the file.
        mark: changes when the file does.
    """

    def __init__(self, start: Callable[[], Iterable[np.ndarray]], name: str, mark: str = "") -> None:
        self.name, self._start, self._mark = name, start, mark
        self._frames: Iterator[np.ndarray] | None = None
        self._next = 0
        self._last: np.ndarray | None = None

    def keys(self) -> list[str]:
        return list(self)

    def __iter__(self) -> Iterator[str]:
        """Yield keys, each once its frame is known to exist."""
        for number in itertools.count():
            if not self._advance(number):
                return
            yield f"{number:08d}"

    def _advance(self, number: int) -> bool:
        if self._frames is None or number < self._next - 1:
            self._frames, self._next = iter(self._start()), 0
        while self._next <= number:
            self._last = next(self._frames, None)
            if self._last is None:
                return False
            self._next += 1
        return True

    def size(self, key: str) -> tuple[int, int]:
        frame = self.get(key)
        return frame.shape[0], frame.shape[1]

    def get(self, key: str, crop: Crop | None = None) -> np.ndarray:
        if not self._advance(int(key)):
            raise UserError(f"{self.name}: has no frame {int(key)}")
        assert self._last is not None
        return crop.of(self._last) if crop else self._last

    def stamp(self, key: str) -> str:
        return f"{key} {self._mark}"
