"""Pairs of LR and HR frames, stored side by side or LR made from HR; frames in memory."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdsr_arch.data.augment import (
    Crop,
    check_crop,
    cut,
)
from kdsr_arch.data.flow_image import FLOW_SIDE
from kdsr_arch.data.keys import side_name
from kdsr_arch.data.sources import (
    FrameSource,
    JoinedSource,
    LmdbSource,
    WrappedSource,
    open_source,
    part_of,
    root_names,
)
from kdsr_arch.data.store.lmdb_store import reading
from kdsr_arch.errors import UserError, notice
from kdsr_arch.ops.bicubic import imresize_uint8
from kdsr_arch.ops.degrade import bd_downsample


class CachedSource(WrappedSource):
    """Keeps decoded frames of another source, up to a number of bytes; what does not fit is read each time.

    The memory is one anonymous map, filled as frames are first asked for. Worker processes forked later share it, so
    that a frame is decoded once for all of them and the limit holds for all of them together. Two workers that decode
    the same frame at once write the same bytes.

    Args:
        source: where frames come from.
        keys: the frames to keep, most wanted first.
        limit: bytes.
    """

    def __init__(self, source: FrameSource, keys: Iterable[str], limit: int) -> None:
        super().__init__(source)
        self._places: dict[str, tuple[int, int]] = {}  # key -> (number, offset)
        self.bytes = 0
        for key in dict.fromkeys(keys):  # a clip may be listed twice, to be drawn twice as often
            size = 3 * math.prod(source.size(key))
            if self.bytes + size > limit:
                break
            self._places[key] = (len(self._places), self.bytes)
            self.bytes += size
        self._frames = mmap.mmap(-1, max(self.bytes, 1))
        self._filled = mmap.mmap(-1, max(len(self._places), 1))

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedSource, (self.source, tuple(self._places), self.bytes)  # a spawned worker gets an empty cache

    def size(self, key: str) -> tuple[int, int]:
        return self.source.size(key)

    def holds(self, key: str) -> bool:
        """Return whether a frame is in memory, or will be once it was asked for."""
        return key in self._places

    def get(self, key: str, crop: Crop | None = None) -> np.ndarray:
        """Return a frame or a crop of it, from memory where it is kept."""
        if key not in self._places:
            return self.source.get(key, crop)
        number, offset = self._places[key]
        height, width = self.size(key)
        place = np.frombuffer(self._frames, np.uint8, height * width * 3, offset).reshape(height, width, 3)
        if not self._filled[number]:
            frame = self.source.get(key)
            if frame.dtype != np.uint8:  # there is room for 8 bits
                return cut(frame, crop, self.where(key))
            place[...] = frame
            self._filled[number] = 1  # only now: another process must never see half a frame
        place.flags.writeable = False
        return cut(place, crop, self.where(key))


_BD_REACH = 6  # HR pixels, of the 13x13 Gaussian


def context_of(scale: int) -> int:
    """Return how many LR pixels around a crop its values depend on.

    2 for the bicubic kernel (4 LR pixels wide), 3 at scale 2 and 6 at scale 1 for the Gaussian. One more keeps the crop
    clear of rounding at the crop's own border.
    """
    return max(4, _BD_REACH // scale + 1)


def degraded(frames: np.ndarray, scale: int, kind: str, border: str) -> np.ndarray:
    """Make the LR of frames (H, W, 3), or of several (T, H, W, 3), as :class:`DegradedSource` says."""
    return bd_downsample(frames, scale) if kind == "BD" else imresize_uint8(frames, 1 / scale, border=border)


class DegradedSource(WrappedSource):
    """LR frames of a source of HR frames, whose right and bottom are cut to multiples of the scale.

    The LR of a crop is, bit for bit, that crop of the LR of the whole frame: crops are made with enough context.

    Args:
        source: HR frames.
        scale: integer factor.
        kind: 'BI', MATLAB's bicubic on uint8 (rows rounded before columns), or 'BD', Gaussian blur of sigma 1.6 and
            every ``scale``-th pixel.
        border: what MATLAB assumes outside the frame, 'symmetric' (newer) or 'replicate' (older); BI only.
    """

    def __init__(self, source: FrameSource, scale: int, kind: str = "BI", border: str = "symmetric") -> None:
        if kind not in ("BI", "BD"):
            raise UserError(f"degradation '{kind}' is unknown; use 'BI', 'BD', or 'none' with a dataroot_lq")
        super().__init__(source)
        self.scale, self.kind, self.border = scale, kind, border

    def size(self, key: str) -> tuple[int, int]:
        height, width = self.source.size(key)
        return height // self.scale, width // self.scale

    def stamp(self, key: str) -> str:
        return f"{side_name(self.scale, self.kind, self.border)} {self.source.stamp(key)}"

    def detached(self, key: str) -> DegradedSource:
        return DegradedSource(self.source.detached(key), self.scale, self.kind, self.border)

    def get(self, key: str, crop: Crop | None = None) -> np.ndarray:
        return self.get_pair(key, crop)[0]

    def get_pair(self, key: str, crop: Crop | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return (LR, HR) under an LR crop, from one read of the HR frame."""
        height, width = self.size(key)
        crop = crop or Crop(0, 0, height, width)
        check_crop(crop, (height, width), self.where(key))
        around = context_of(self.scale)
        top, left = max(0, crop.top - around), max(0, crop.left - around)
        bottom = min(height, crop.top + crop.height + around)
        right = min(width, crop.left + crop.width + around)
        wide = Crop(top, left, bottom - top, right - left)
        frame = self.source.get(key, wide.scaled(self.scale))
        inner = Crop(crop.top - top, crop.left - left, crop.height, crop.width)
        low = degraded(frame, self.scale, self.kind, self.border)
        return inner.of(low), inner.scaled(self.scale).of(frame)


@dataclass(kw_only=True, eq=False)
class PairOptions:
    """What says where pairs of frames come from.

    Args:
        name: of the data set, for messages.
        scale: HR sides over LR sides.
        dataroot_gt, dataroot_lq: folder or LMDB, or several of them, whose frames are named ``ROOT/NAME``; without
            ``dataroot_lq`` the LR is made by ``degradation``, or read from the HR's own store where that keeps such LR;
            without ``dataroot_gt`` there is LR only, for testing.
        io_backend: ``{type: disk | lmdb}``; by default the roots decide.
        degradation: 'BI', 'BD' or 'none' (:class:`DegradedSource`).
        border: 'symmetric' or 'replicate'.
    """

    name: str = "data set"
    scale: int = 1
    dataroot_gt: str | Path | Sequence[str | Path] | None = None
    dataroot_lq: str | Path | Sequence[str | Path] | None = None
    io_backend: Mapping[str, Any] | None = None
    degradation: str = "BI"
    border: str = "symmetric"

    def roots(self) -> tuple[list[Path], list[Path]]:
        """Return the HR and the LR folders and stores that are named."""
        gt, lq = (
            [Path(root).expanduser() for root in ([value] if isinstance(value, str | Path) else value or [])]
            for value in (self.dataroot_gt, self.dataroot_lq)
        )
        return gt, lq

    def named_roots(self) -> dict[Path, str]:
        """Return the roots with what the names of their frames begin with: nothing, where there is one on each side."""
        gt, lq = self.roots()
        names = root_names(gt or lq, self.name) if max(len(gt), len(lq)) > 1 else [""]
        return {root: name for side in (lq, gt) for root, name in zip(side, names, strict=False)}


def _joined(sources: Mapping[str, FrameSource]) -> FrameSource | None:
    """Return the source of the one root, which has no name, or those of several as one."""
    return sources.get("", JoinedSource(sources)) if sources else None


class FramePairs:
    """The LR and the HR side of a data set.

    Attributes:
        lq, gt: both sides; gt may be None.
        flow: the flow between the HR frames, where a store keeps it beside them, as images (:mod:`flow_image`).

    Args:
        only: clips to look for, which spares the listing of a large folder.

    Raises:
        UserError: a root that is missing or holds no frames, or an unknown degradation.
    """

    def __init__(self, options: PairOptions, only: Sequence[str] | None = None) -> None:
        self.scale, name = options.scale, options.name
        gt_roots, lq_roots = options.roots()
        if not gt_roots and not lq_roots:
            raise UserError(f"{name}: dataroot_gt (or dataroot_lq) is missing")
        if gt_roots and lq_roots and len(gt_roots) != len(lq_roots):
            raise UserError(f"{name}: dataroot_gt names {len(gt_roots)} roots, dataroot_lq {len(lq_roots)}")
        if not lq_roots and options.degradation == "none":
            raise UserError(f"{name}: degradation 'none' needs LR frames in dataroot_lq")
        self.stored = bool(lq_roots)
        self._stores: set[Path] = set()
        names = options.named_roots()
        labels = [names[root] for root in gt_roots or lq_roots]
        sides: dict[str, tuple[FrameSource | None, FrameSource | None]] = {}
        for number, label in enumerate(labels):
            wanted = part_of(only, label) if label else only
            if wanted is None or wanted:
                gt_root, lq_root = (roots[number] if roots else None for roots in (gt_roots, lq_roots))
                sides[label] = self._open(options, gt_root, lq_root, wanted)
        if not sides:
            raise UserError(
                f"{name}: of several data roots, names of clips begin with the root's ({', '.join(labels)})"
            )
        self.gt = _joined({label: gt for label, (gt, _) in sides.items() if gt is not None})
        stores = {
            label: gt for label, (gt, _) in sides.items() if isinstance(gt, LmdbSource) and FLOW_SIDE in gt.sides()
        }
        self.flow = _joined({label: LmdbSource(gt.root, FLOW_SIDE) for label, gt in stores.items()})
        made = {label: self._degraded(options, gt) for label, (gt, _) in sides.items() if gt is not None}
        given = {label: lq for label, (_, lq) in sides.items() if lq is not None}
        # LR of all roots is made in one source, which reads the HR of a frame once for both sides
        lq = _joined(made | given) if given or self.gt is None else self._degraded(options, self.gt)
        assert lq is not None
        self.lq: FrameSource = lq

    def _open(
        self, options: PairOptions, gt_root: Path | None, lq_root: Path | None, only: Sequence[str] | None
    ) -> tuple[FrameSource | None, FrameSource | None]:
        """Open both sides of one root; no LR where it is made from the HR of all roots."""
        backend = (options.io_backend or {}).get("type")
        gt, lq = (open_source(root, backend, only) if root else None for root in (gt_root, lq_root))
        side = side_name(options.scale, options.degradation, options.border)
        if lq is None and isinstance(gt, LmdbSource) and side in gt.sides():
            lq = LmdbSource(gt.root, side)
        self._stores |= {source.root for source in (gt, lq) if isinstance(source, LmdbSource)}
        return gt, lq

    @staticmethod
    def _degraded(options: PairOptions, gt: FrameSource) -> DegradedSource:
        return DegradedSource(gt, options.scale, options.degradation, options.border)

    def inspect(self, lq_keys: Iterable[str], gt_keys: Iterable[str], decode: bool) -> None:
        """Look at all these frames at once (:meth:`FrameSource.inspect`)."""
        made = isinstance(self.lq, DegradedSource)  # of the HR, frame by frame
        if not made:
            self.lq.inspect(dict.fromkeys(lq_keys), decode)
        if self.gt is not None:
            self.gt.inspect(dict.fromkeys((*lq_keys, *gt_keys) if made else gt_keys), decode)

    def check(self, lq_key: str, gt_key: str) -> tuple[int, int]:
        """Return the LR size (h, w) of a pair; raise UserError when the HR is not ``scale`` times as large.

        HR frames whose sides are no multiples of the scale are cut at the right and bottom, which is said once.
        """
        size = self.lq.size(lq_key)
        if self.gt is None:
            return size
        full = self.gt.size(gt_key)
        even = tuple(side - side % self.scale for side in full)
        if min(size) < 1:
            raise UserError(f"{self.gt.where(gt_key)} is {full[0]}x{full[1]}: too small for scale {self.scale}")
        if (size[0] * self.scale, size[1] * self.scale) != even:
            raise UserError(
                f"{self.lq.where(lq_key)} is {size[0]}x{size[1]} and {self.gt.where(gt_key)} is {full[0]}x{full[1]}: "
                f"they do not pair at scale {self.scale}"
            )
        if even != full:
            notice(
                f"mod-crop {self.gt.name}",
                f"{self.gt.name}: sides that {self.scale} does not divide are cut at the right and bottom (said once)",
            )
        return size

    def cache(self, mode: bool | str, gib: float | None, lq_keys: Sequence[str], gt_keys: Sequence[str]) -> None:
        """Keep decoded frames in memory.

        Args:
            mode: True: as many as fit; 'auto': all of them, if they fit; False: none.
            gib: memory that they may take; by default 8 GiB, or 2 GiB with 'auto'.
            lq_keys, gt_keys: the frames, most wanted first.
        """
        if not mode or not (lq_keys or gt_keys):
            return
        limit = int(min(gib or (2.0 if mode == "auto" else 8.0), 2**30) * 2**30)
        if mode == "auto":
            sides = [(s, keys) for s, keys in ((self.lq, lq_keys), (self.gt, gt_keys)) if s is not None and keys]
            if sum(3 * math.prod(source.size(keys[0])) * len(keys) for source, keys in sides) > 4 * limit:
                return  # far too large, as the first frame tells: spare the look at each header
            if sum(3 * math.prod(source.size(key)) for source, keys in sides for key in keys) > limit:
                return
        if self.gt is not None:
            self.gt = cached = CachedSource(self.gt, gt_keys, limit)
            limit -= cached.bytes
            if isinstance(self.lq, DegradedSource):
                self.lq.source = cached
        self.lq = CachedSource(self.lq, lq_keys, limit)

    def read(
        self, lq_keys: Sequence[str], gt_keys: Sequence[str], crop: Crop | None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Read LR frames under an LR crop and HR frames under the same place, each file decoded once.

        Frames of one store are read in one transaction.
        """
        sides = [(self.lq, lq_keys)] + ([(self.gt, gt_keys)] if self.gt is not None else [])
        kept = all(isinstance(source, CachedSource) and all(map(source.holds, keys)) for source, keys in sides)
        maker = self.lq.source if isinstance(self.lq, CachedSource) else self.lq
        with contextlib.ExitStack() as stack:
            for store in () if kept else self._stores:  # no store is asked, but for a kept frame's first reading
                stack.enter_context(reading(store))
            if isinstance(maker, DegradedSource):
                return self._read_degraded(maker, lq_keys, gt_keys, crop)
            lq = _read_unique(self.lq, lq_keys, crop)
            if self.gt is None or not gt_keys:
                return lq, []
            return lq, _read_unique(self.gt, gt_keys, self._hr_crop(crop, lq_keys[0]))

    def _hr_crop(self, crop: Crop | None, lq_key: str) -> Crop:
        """The place of an LR crop in the HR frame; of the whole LR frame, where sides may have been cut."""
        return (crop or Crop(0, 0, *self.lq.size(lq_key))).scaled(self.scale)

    def _read_degraded(
        self, maker: DegradedSource, lq_keys: Sequence[str], gt_keys: Sequence[str], crop: Crop | None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """LR that is made from HR: both sides of a frame that is not in memory from one decoding."""
        assert self.gt is not None
        low: dict[str, np.ndarray] = {}
        high: dict[str, np.ndarray] = {}
        for key in dict.fromkeys([*lq_keys, *gt_keys]):
            if not (isinstance(self.lq, CachedSource) and self.lq.holds(key)):
                low[key], high[key] = maker.get_pair(key, crop)
        lq = [low[key] if key in low else self.lq.get(key, crop) for key in lq_keys]
        gt = [high[key] if key in high else self.gt.get(key, self._hr_crop(crop, key)) for key in gt_keys]
        return lq, gt


def _read_unique(source: FrameSource, keys: Sequence[str], crop: Crop | None) -> list[np.ndarray]:
    """Read frames for keys that may repeat, as they do at a clip's ends."""
    unique = list(dict.fromkeys(keys))
    frames = dict(zip(unique, source.get_many(unique, crop), strict=True))
    return [frames[key] for key in keys]
