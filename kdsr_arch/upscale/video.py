"""Upscaling a video: decoding, the network and encoding at once, segment by segment, resumable."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from kdsr_arch.errors import UserError
from kdsr_arch.infer.pixels import to_float, to_pixels
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.log import progress_bar
from kdsr_arch.upscale.overlap import WriteBehind, read_ahead
from kdsr_arch.upscale.segments import Encoded, WorkFolder, write_segment
from kdsr_arch.upscale.video_input import Decoder, VideoInfo, probe
from kdsr_arch.upscale.video_output import Coding, Encoder, assemble, check_container, choose_coding

_Timed = tuple[int, int, Tensor]  # time, duration, (C, h, w)

SEGMENT_FRAMES = 250
"""About ten seconds: what an interrupted run may have to do again."""


@dataclass(frozen=True)
class VideoOptions:
    """How a video is upscaled and written (see ``kdsr upscale --help``).

    Attributes:
        segment_frames: frames of a segment, about.
        network: differs between networks, weights and precisions; segments of another one are not used.
    """

    codec: str | None = None
    crf: int = 16
    preset: str = "veryfast"
    partial: bool = False
    segment_frames: int = SEGMENT_FRAMES
    network: str = ""


def upscale_video(restorer: Restorer, source: Path, target: Path, options: VideoOptions | None = None) -> tqdm:
    """Upscale a video file; ``target`` appears when it is whole.

    Returns:
        the closed progress bar, which knows the number of frames and the rate of this run.

    Raises:
        UserError: an input that cannot be read or should not be upscaled as it is, an output that cannot be written.
    """
    options = options or VideoOptions()
    info = probe(source, options.partial)
    coding = choose_coding(info, restorer.traits.scale, options.codec, options.crf, options.preset)
    check_container(target, info, coding)
    work = WorkFolder(target, _settings(restorer, info, coding, options))
    try:
        run = _Run(restorer, info, coding, options, work)
        run.encode()
        assemble(target, info, coding, work.done())
    except BaseException:
        if not work.done():  # nothing to go on from
            work.remove()
        raise
    work.remove()
    return run.bar


def _settings(restorer: Restorer, info: VideoInfo, coding: Coding, options: VideoOptions) -> dict:
    """All that the segments depend on."""
    stat = info.path.stat()
    return {
        "input": [str(info.path.resolve()), stat.st_size, stat.st_mtime_ns],
        "network": options.network,
        "tile": [restorer.tile, restorer.overlap, restorer.batch],
        "coding": [coding.codec, coding.pix_fmt, coding.options, coding.width, coding.height],
        "segment": options.segment_frames,
    }


class _Run:
    """Makes the segments that are not there yet."""

    def __init__(
        self, restorer: Restorer, info: VideoInfo, coding: Coding, options: VideoOptions, work: WorkFolder
    ) -> None:
        self.restorer, self.info, self.coding, self.work = restorer, info, coding, work
        self.at_once = restorer.at_once(info.height, info.width)
        self.length = -(-options.segment_frames // self.at_once) * self.at_once  # pieces end where segments end
        self.decoder = Decoder(info, options.partial)
        self.done = work.done()
        while self.done and len(self.done[-1].times) != self.length:  # the end of the video, or of a broken-off file
            self.done.pop()
        count = sum(len(segment.times) for segment in self.done)
        self.bar = progress_bar(info.path.name, info.frames or None, done=count)

    def encode(self) -> None:
        """Decode, restore, encode and store until the video ends."""
        if self.done:
            print(f"going on after frame {self.bar.n}, kept in {self.work.folder}", flush=True)
        before = self._times_before()
        writer = _SegmentWriter(self.info, self.coding, self.work, len(self.done), self.length)
        times: deque[tuple[int, int]] = deque()
        with (
            self.bar,
            read_ahead(self._frames(before[0] if before else None)) as frames,
            WriteBehind(writer.add) as behind,
        ):
            context = [next(frames)[2] for _ in before]
            context = context[len(context) - self.restorer.context :] if self.restorer.context else []
            for sr in self.restorer.stream(_noting(frames, times), self.at_once, context):
                behind.put((*times.popleft(), self._ready(sr)))
                self.bar.update()
        writer.close()
        if self.decoder.broken:
            print(f"note: {self.decoder.broken}; {self.bar.n} frames were upscaled", flush=True)

    def _times_before(self) -> list[int]:
        """The times of the frames that the first one to restore needs, one at least to know where to go on."""
        times = [time for segment in self.done for time in segment.times]
        count = min(max(self.restorer.context, 1), len(times))
        return times[len(times) - count :]

    def _frames(self, start: int | None) -> Iterator[_Timed]:
        return ((pts, duration, to_float(image)) for pts, duration, image in self.decoder.frames(start))

    def _ready(self, sr: Tensor) -> Tensor | NDArray:
        """On a GPU whole numbers are made there, as they travel faster; on the CPU the writing thread makes them."""
        return sr if sr.device.type == "cpu" else to_pixels(sr, self.info.dtype)


def _noting(frames: Iterable[_Timed], times: deque[tuple[int, int]]) -> Iterator[Tensor]:
    """The LR frames; their times are noted until their results come."""
    for pts, duration, lq in frames:
        times.append((pts, duration))
        yield lq


class _SegmentWriter:
    """Encodes frames and stores a segment whenever one is full."""

    def __init__(self, info: VideoInfo, coding: Coding, work: WorkFolder, number: int, length: int) -> None:
        self.info, self.coding, self.work, self.number, self.length = info, coding, work, number, length
        self._begin()

    def _begin(self) -> None:
        self._encoder = Encoder(self.info, self.coding)
        self._times: list[int] = []
        self._durations: list[int] = []
        self._frames: list[Encoded] = []

    def add(self, item: tuple[int, int, Tensor | NDArray]) -> None:
        """Encode one frame: its time, its duration, and its pixels."""
        pts, duration, image = item
        pixels = to_pixels(image, self.info.dtype) if isinstance(image, Tensor) else image
        self._frames += self._encoder.add(pixels)
        self._times.append(pts)
        self._durations.append(duration)
        if len(self._times) == self.length:
            self._store()
            self._begin()

    def _store(self) -> None:
        self._frames += self._encoder.finish()
        if len(self._frames) != len(self._times):
            raise UserError(
                f"encoder {self.coding.codec} made {len(self._frames)} packets of {len(self._times)} "
                "frames; choose another --codec"
            )
        write_segment(self.work.place(self.number), self._times, self._durations, self._frames)
        self.number += 1

    def close(self) -> None:
        """Store what the last segment holds."""
        if self._times:
            self._store()
