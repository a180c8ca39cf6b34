"""Upscaling a video: decoding, the network and encoding at once, segment by segment, resumable."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from kdsr_arch.errors import UserError
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.pixels import to_float, to_pixels
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.log import progress_bar
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.upscale.images import seen
from kdsr_arch.upscale.segments import Encoded, WorkFolder, write_segment
from kdsr_arch.upscale.video_input import Decoder, VideoInfo, probe
from kdsr_arch.upscale.video_output import (
    Coding,
    Encoder,
    assemble,
    check_container,
    choose_coding,
    has_alpha,
    losses,
)

T = TypeVar("T")
_END: Any = object()
_LEAST_FRAMES, _MOST_FRAMES = 25, 250  # of a segment; each begins with a key frame, which costs bytes
_SEGMENT_WORK = {"cpu": 30 * 50 * 10**9, "cuda": 30 * 5 * 10**12}  # multiply-adds in half a minute, about


@dataclass(frozen=True)
class VideoOptions:
    """How a video is upscaled and written (see ``kdsr upscale --help``).

    Attributes:
        segment_frames: frames of a segment, about: what an interrupted run may have to do again; None chooses.
        network: differs between networks, weights and precisions; segments of another one are not used.
    """

    codec: str | None = None
    crf: int = 16
    preset: str = "veryfast"
    partial: bool = False
    progressive: bool = False
    segment_frames: int | None = None
    network: str = ""


def plan_video(source: Path, target: Path, options: VideoOptions, scale: int) -> tuple[VideoInfo, Coding]:
    """Look at a video, and choose how its enlargement is written.

    Raises:
        UserError: an input that cannot be read or should not be upscaled as it is, an output that cannot be written.
    """
    info = probe(source, options.partial)
    coding = choose_coding(info, scale, options.codec, options.crf, options.preset)
    check_container(target, info, coding)
    return info, coding


def upscale_video(restorer: Restorer, source: Path, target: Path, options: VideoOptions | None = None) -> tqdm:
    """Upscale a video file; ``target`` appears when it is whole.

    Returns:
        the closed progress bar, which knows the number of frames and the rate of this run.

    Raises:
        UserError: an input that cannot be read or should not be upscaled as it is, an output that cannot be written.
    """
    options = options or VideoOptions()
    info, coding = plan_video(source, target, options, restorer.traits.scale)
    for lost in losses(info, coding):
        print(f"note: {source}: {lost}", flush=True)
    length, stat = segment_length(restorer, info, options.segment_frames), source.stat()
    depends_on = {
        "input": [str(source.resolve()), stat.st_size, stat.st_mtime_ns],
        "network": options.network,
        "tile": [restorer.tile, restorer.overlap, restorer.batch],
        "coding": [coding.codec, coding.pix_fmt, coding.options, coding.width, coding.height],
        "segment": length,
    }
    work = WorkFolder(target, depends_on)
    try:
        bar = _make_segments(restorer, info, coding, options, work, length)
        assemble(target, info, coding, work.done())
    except BaseException:
        if not work.done():  # nothing to go on from
            work.remove()
        raise
    work.remove()
    return bar


def segment_length(restorer: Restorer, info: VideoInfo, wanted: int | None = None) -> int:
    """Choose the frames of a segment: those that the network takes about half a minute for, a second of video at least.

    The time is guessed, not measured: a run that goes on must cut the video like one that was never interrupted. Most
    networks take about one multiply-add for each parameter and LR pixel.

    Args:
        wanted: about so many.
    """
    at_once = restorer.at_once(info.height, info.width)
    if wanted is None:
        work = max(count_parameters(restorer.runner.net), 1) * info.height * info.width
        wanted = min(
            max(_SEGMENT_WORK.get(restorer.device.type, _SEGMENT_WORK["cpu"]) // work, _LEAST_FRAMES), _MOST_FRAMES
        )
    return -(-wanted // at_once) * at_once  # pieces end where segments end


def _make_segments(
    restorer: Restorer, info: VideoInfo, coding: Coding, options: VideoOptions, work: WorkFolder, length: int
) -> tqdm:
    """Decode, restore, encode and store the segments that are not there yet; return the closed progress bar."""
    at_once = restorer.at_once(info.height, info.width)
    done = work.done()
    while done and len(done[-1].times) != length:  # the end of the video, or of a broken-off file
        done.pop()
    known = [time for segment in done for time in segment.times]
    bar = progress_bar(info.path.name, info.frames or None, done=len(known))
    if done:
        print(f"going on after frame {bar.n}, kept in {work.folder}", flush=True)
    # of the frames that the first one to restore needs, one at least to know where to go on
    before = known[len(known) - min(max(restorer.context, 1), len(known)) :]
    decoder = Decoder(info, options.partial, options.progressive, has_alpha(coding.pix_fmt))
    writer = _SegmentWriter(info, coding, work, len(done), length)
    waiting: deque[tuple[int, int, Tensor]] = deque()  # times, durations and alpha of frames whose results are to come

    def noted(frames: Iterator[tuple[int, int, Tensor]]) -> Iterator[Tensor]:
        for pts, duration, lq in frames:
            waiting.append((pts, duration, lq[3:]))
            yield lq[:3]

    decoded = ((pts, duration, to_float(seen(image))) for pts, duration, image in decoder.frames(*before[:1]))
    with bar, read_ahead(decoded) as frames, WriteBehind(writer.add) as behind:
        context = [next(frames)[2][:3] for _ in before]
        context = context[len(context) - restorer.context :] if restorer.context else []
        for sr in restorer.stream(noted(frames), at_once, context):
            # on a GPU whole numbers are made there, as they travel faster; on the CPU the writing thread makes them
            pts, duration, alpha = waiting.popleft()
            restorer.checked(sr, f"{info.path}, at {float((pts - info.start) * info.time_base):.2f} s")
            behind.put((pts, duration, alpha, sr if sr.device.type == "cpu" else to_pixels(sr, info.dtype)))
            bar.update()
    writer.close()
    for note in decoder.notes:
        print(f"note: {note}; {bar.n} frames were upscaled", flush=True)
    return bar


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

    def add(self, item: tuple[int, int, Tensor, Tensor | NDArray]) -> None:
        """Encode one frame: its time, its duration, its LR alpha (with no channel where it has none), its pixels."""
        pts, duration, alpha, image = item
        pixels = to_pixels(image, self.info.dtype) if isinstance(image, Tensor) else image
        if len(alpha):
            enlarged = upsample_bicubic(alpha[None], pixels.shape[0] // alpha.shape[1])[0]
            pixels = np.concatenate([pixels, to_pixels(enlarged, self.info.dtype)], axis=2)
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


# ------------------------------------------------------------ reading ahead in one thread, writing behind in another


def _one_thread(name: str) -> ThreadPoolExecutor:
    """A thread whose own computations take one core: the cores belong to the network."""
    return ThreadPoolExecutor(1, name, torch.set_num_threads, (1,))


@contextmanager
def read_ahead(source: Iterable[T], depth: int = 8) -> Iterator[Iterator[T]]:
    """Iterate ``source`` in a thread, at most ``depth`` items ahead; leaving the context ends the thread.

    What ``source`` raises comes after its items.
    """
    pool, items = _one_thread("read"), iter(source)

    def drawn() -> Iterator[T]:
        ahead = deque(pool.submit(next, items, _END) for _ in range(depth))
        while (item := ahead.popleft().result()) is not _END:
            ahead.append(pool.submit(next, items, _END))
            yield item

    try:
        yield drawn()
    finally:
        pool.shutdown(cancel_futures=True)


class WriteBehind(Generic[T]):
    """Calls ``function`` on items in a thread, in order; after an error on no further ones.

    Leaving the context waits for all items, or drops those that wait where it is left by an error.
    """

    def __init__(self, function: Callable[[T], None], depth: int = 8) -> None:
        self._function, self._depth = function, depth
        self._behind: deque[Future] = deque()
        self._failed = False

    def __enter__(self) -> WriteBehind[T]:
        self._pool = _one_thread("write")
        return self

    def _call(self, item: T) -> None:
        if self._failed:
            return
        try:
            self._function(item)
        except BaseException:
            self._failed = True
            raise

    def put(self, item: T) -> None:
        """Hand one item over; waits where the thread is far behind.

        Raises:
            whatever ``function`` raised on an earlier item.
        """
        self._behind.append(self._pool.submit(self._call, item))
        while self._behind and (len(self._behind) > self._depth or self._behind[0].done()):
            self._behind.popleft().result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        while kind is None and self._behind:
            self._behind.popleft().result()
