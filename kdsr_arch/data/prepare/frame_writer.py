"""Conversion of frames to LMDB stores: over processes, in steps from which a killed run goes on."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kdsr_arch.data.augment import Crop
from kdsr_arch.data.flow_image import FLOW_SIDE
from kdsr_arch.data.image_file import turned
from kdsr_arch.data.keys import clip_of, listed_name, meta_file, natural, safe_key, side_name, stored_key
from kdsr_arch.data.pairs import DegradedSource
from kdsr_arch.data.prepare.workers import ordered_map
from kdsr_arch.data.sources import FrameSource, MemorySource
from kdsr_arch.data.store.codec import Codec, ImageFileCodec, codec_of
from kdsr_arch.data.store.lmdb_store import LmdbWriter
from kdsr_arch.errors import Shortage, UserError, notice, printable
from kdsr_arch.io import replace_file
from kdsr_arch.log import progress_bar
from kdsr_arch.records import available_cores

ClipShapes = dict[str, tuple[int, int, int]]  # (frames, H, W) by clip
SKIPPED_FILE = "skipped.txt"
_FEW = 24  # frames for which starting processes takes longer than the work


class Entry(NamedTuple):
    """One frame to convert: where it comes from, and its key in the new store."""

    source: FrameSource
    key: str
    new_key: str
    crop: Crop | None = None
    side: str = ""  # of which version of the frames it is, see LmdbSource


@dataclass(frozen=True)
class Making:
    """How a store is made.

    Attributes:
        codec: how frames become values.
        low: ``{scale, kind, border}`` of LR frames that are made on the way and kept beside their HR; None for none.
        skip_bad: leave out frames that cannot be used and list them, instead of stopping at the first.
        processes: that decode and encode; None for as many as there are cores.
        tell: whether to show progress on standard error.
        facts: what the store shall tell beside, such as how clips of still photographs were rendered.
    """

    codec: Codec = field(default_factory=ImageFileCodec)
    low: Mapping[str, Any] | None = None
    skip_bad: bool = False
    processes: int | None = None
    tell: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self) -> dict[str, Any]:
        """Return the settings that decide about the bytes of the values."""
        return {"codec": self.codec.recipe, "low": dict(self.low) if self.low else None, **self.facts}


class _Label(NamedTuple):
    """Names and state of a frame, for messages and the digest, while it is worked on."""

    key: str
    side: str
    where: str
    stamp: str


class _Value(NamedTuple):
    side: str
    data: bytes
    size: tuple[int, int]


class _Bad(str):
    """Why a frame cannot be used."""


Job = tuple[_Label, FrameSource, str, Crop | None]


def write_frames(
    entries: Iterable[Entry], out: str | Path, making: Making | None = None, total: int | None = None
) -> ClipShapes:
    """Write frames to an LMDB store in BasicSR's layout; return (frames, H, W) by clip.

    Stopped at any moment and called again, it goes on where it was, and the result is the same.

    Args:
        entries: what to write, in an order that does not change from call to call.
        out: ``NAME.lmdb``, must not exist; it appears when it is whole.
        total: number of entries, for the progress.

    Raises:
        UserError: a frame that does not decode, or differs in size from others of its clip, naming the file.
    """
    making = making or Making()
    with LmdbWriter(out, making.recipe()) as writer:
        run = _Run(writer, making)
        rest = run.resume(iter(entries))
        work = functools.partial(_encoded, codec=making.codec, low=making.low)
        count = making.processes or (1 if total is not None and total < _FEW else available_cores())
        try:
            with progress_bar(Path(out).name, total, done=run.done, disable=not making.tell) as bar:
                for label, values in ordered_map(work, (_job(entry) for entry in rest), count):
                    run.take(label, values)
                    bar.update()
        except (UserError, KeyboardInterrupt) as error:
            raise run.stopped(error) from None
        return run.finish()


def _job(entry: Entry) -> Job:
    label = _Label(entry.new_key, entry.side, entry.source.where(entry.key), _stamp(entry))
    try:
        return label, entry.source.detached(entry.key), entry.key, entry.crop
    except UserError:  # the worker meets the same fault, and tells it as the fault of this frame
        return label, entry.source, entry.key, entry.crop


def _stamp(entry: Entry) -> str:
    try:
        return f"{entry.source.stamp(entry.key)} {tuple(entry.crop or ())}"
    except UserError:
        return "unreadable"


def _encoded(job: Job, *, codec: Codec, low: Mapping[str, Any] | None) -> tuple[_Label, list[_Value] | _Bad]:
    """Make the values of one frame, in a worker."""
    label, source, key, crop = job
    codec = ImageFileCodec() if label.side == FLOW_SIDE else codec  # tiles have no 16 bits
    try:
        data = source.encoded(key) if isinstance(codec, ImageFileCodec) and not crop else None
        # a PNG of 8 bits a channel, RGB, not interlaced, upright is taken as it is
        plain = data and data[:4] == b"\x89PNG" and data[24:26] == b"\x08\x02" and data[28:29] == b"\0"
        plain = data and plain and turned(data) == 1
        frame = source.get(key, crop)
        values = [_Value(label.side, data if data and plain else codec.encode(frame), frame.shape[:2])]
        if low and not label.side:
            lower = DegradedSource(MemorySource({"frame": frame}), **low)
            if min(lower.size("frame")) < 1:
                shape = f"{frame.shape[0]}x{frame.shape[1]}"
                raise UserError(f"{label.where}: {shape} is too small for LR at scale {low['scale']}")
            small = lower.get("frame")
            values.append(_Value(_low_side(low), codec.encode(small), small.shape[:2]))
        return label, values
    except Shortage:
        raise
    except UserError as error:
        return label, _Bad(error if label.where in str(error) else f"{label.where}: {error}")


def _low_side(low: Mapping[str, Any]) -> str:
    return side_name(low["scale"], low.get("kind", "BI"), low.get("border", "symmetric"))


class _Run:
    """The state of a conversion: in memory, and in the writer's state up to the last commit."""

    def __init__(self, writer: LmdbWriter, making: Making) -> None:
        self.writer, self.making = writer, making
        self.done = 0
        self.skipped: list[tuple[int, str, str]] = []  # number, key, reason
        self._digest = ""
        self._shapes: dict[str, ClipShapes] = {}
        self._lines: dict[str, list[str]] = {"": []}
        self._keys: set[tuple[str, str]] = set()

    def resume(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Take note of the entries that are done; return the others."""
        state = self.writer.state
        self.skipped = [tuple(item) for item in state.get("skipped", [])]
        left_out = {number for number, _, _ in self.skipped}
        lower = [_low_side(self.making.low)] if self.making.low else []
        for number, entry in enumerate(itertools.islice(entries, state.get("done", 0))):
            self._count(_Label(entry.new_key, entry.side, "", _stamp(entry)))
            if number in left_out:
                continue
            sides = [entry.side] if entry.side else ["", *lower]
            values = self.writer.stored(stored_key(entry.new_key, side) for side in sides)
            for side, data in zip(sides, values, strict=True):
                if data is None:
                    raise UserError(f"{self.writer.work}: lacks '{entry.new_key}', which it should have; remove it")
                self._note(entry.new_key, side, codec_of(data).size(data, entry.new_key), "")
        if self._digest != state.get("digest", ""):
            raise UserError(
                f"{self.writer.work}: was left by a conversion of other frames, or files have changed since; remove it"
            )
        return entries

    def _count(self, label: _Label) -> None:
        text = "\0".join((self._digest, label.key, label.side, label.stamp))
        self._digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        self.done += 1

    def take(self, label: _Label, values: list[_Value] | _Bad) -> None:
        """Take the next frame's values, or the reason why there are none."""
        try:
            if isinstance(values, _Bad):
                raise UserError(values)
            safe_key(label.key, label.where)
            if (label.side, label.key) in self._keys:
                raise UserError(f"{label.where}: the key '{label.key}' comes twice; file names must differ")
            if len(stored_key(label.key, label.side)) > 450:
                raise UserError(f"{label.where}: the key '{label.key}' is too long for LMDB (450 bytes)")
            for value in values:
                self._note(label.key, value.side, value.size, label.where)
                self.writer.put(stored_key(label.key, value.side), value.data)
        except UserError as error:
            if not self.making.skip_bad:
                raise
            self.skipped.append((self.done, label.key, str(error)))
        self._count(label)
        if self.writer.is_due:
            self._commit()

    def _note(self, key: str, side: str, size: Sequence[int], where: str) -> None:
        """Add a frame to its clip's count and to the list; frames without a clip may have any size."""
        clip, shapes = clip_of(key), self._shapes.setdefault(side, {})
        count, *known = shapes.get(clip, (0, *size))
        if clip and tuple(known) != tuple(size):
            raise UserError(f"{where} is {size[0]}x{size[1]}, other frames of the clip are {known[0]}x{known[1]}")
        shapes[clip] = (count + 1, size[0], size[1])
        self._keys.add((side, key))
        level = getattr(self.making.codec, "compress_level", self.making.codec.name)
        self._lines.setdefault(side, []).append(f"{key}.png ({size[0]},{size[1]},3) {level}\n")

    def _commit(self) -> None:
        self.writer.state = {"done": self.done, "digest": self._digest, "skipped": self.skipped}
        self.writer.commit()

    def stopped(self, error: UserError | KeyboardInterrupt) -> BaseException:
        """Commit what is done; return the error with a word on it."""
        if not self.done:
            return error
        self._commit()
        if isinstance(error, KeyboardInterrupt):
            return error
        kept = f"the {self.done} frames before it are kept"
        return UserError(f"{error} ({kept}: mend it, or use --skip-bad, and run the same command again to go on)")

    def finish(self) -> ClipShapes:
        """Give the store its lists and its name; return the shapes of the clips.

        Raises:
            UserError: there were no frames.
        """
        if not self._lines[""]:
            reasons = f"; the first was left out because: {self.skipped[0][2]}" if self.skipped else ""
            raise UserError(f"{self.writer.path}: nothing to write, no frames were found{reasons}")
        self._commit()
        files = {meta_file(side): "".join(lines) for side, lines in self._lines.items()}
        if self.skipped:
            lines = (printable(f"{key}\t{reason}", kept="\t") for _, key, reason in self.skipped)
            files[SKIPPED_FILE] = "".join(f"{line}\n" for line in lines)
        self.writer.finish(files)
        return self._shapes[""]


def write_clips(clips: Iterable[tuple[str, FrameSource]], out: str | Path, making: Making | None = None) -> ClipShapes:
    """Write clips to an LMDB store, with keys ``clip/00000000``.

    Args:
        clips: pairs of name and frames.
    """

    def entries() -> Iterator[Entry]:
        """Yield every frame of every clip, under its new key."""
        for name, source in clips:
            number = -1
            try:
                for number, key in enumerate(source):
                    yield Entry(source, key, f"{name}/{number:08d}")
            except UserError as error:  # a video that breaks off
                if making is None or not making.skip_bad or number < 0:
                    raise
                notice(f"clip {name}", f"{error}; its first {number + 1} frames are taken")
            if number < 0:
                raise UserError(f"clip '{name}' has no frames in the range asked for")

    return write_frames(entries(), out, making)


def write_clip_list(shapes: ClipShapes, path: str | Path) -> None:
    """Write a ``meta_info_file``: one line ``clip frames (h,w,3)`` per clip."""
    lines = [
        f"{listed_name(clip)} {n} ({h},{w},3)\n"
        for clip, (n, h, w) in sorted(shapes.items(), key=lambda s: natural(s[0]))
    ]
    replace_file(Path(path), lambda file: file.write("".join(lines).encode()))
