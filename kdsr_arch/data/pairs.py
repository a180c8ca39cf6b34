"""Pairs of LR and HR frames: stored side by side, or LR made from HR; cached when they fit in memory."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdsr_arch.data.augment import Crop, check_crop
from kdsr_arch.data.degradation import DegradedSource, mod_crop
from kdsr_arch.data.sources import FrameSource, LmdbSource, open_source, side_name
from kdsr_arch.errors import UserError, notice


def frame_bytes(size: tuple[int, int]) -> int:
    """Bytes of a decoded frame of ``size`` (H, W)."""
    return size[0] * size[1] * 3


class CachedSource(FrameSource):
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
        self.source = source
        self.name = source.name
        self._places: dict[str, tuple[int, int]] = {}  # key -> (number, offset)
        total = 0
        for key in dict.fromkeys(keys):  # a clip may be listed twice, to be drawn twice as often
            size = frame_bytes(source.size(key))
            if total + size > limit:
                break
            self._places[key] = (len(self._places), total)
            total += size
        self.bytes = total
        self._allocate()

    def _allocate(self) -> None:
        self._frames = mmap.mmap(-1, max(self.bytes, 1))
        self._filled = mmap.mmap(-1, max(len(self._places), 1))

    def __getstate__(self) -> dict[str, Any]:
        # A spawned (not forked) worker gets an empty cache of its own.
        return {k: v for k, v in self.__dict__.items() if k not in ("_frames", "_filled")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._allocate()

    def keys(self) -> list[str]:
        return self.source.keys()

    def size(self, key: str) -> tuple[int, int]:
        return self.source.size(key)

    def where(self, key: str) -> str:
        return self.source.where(key)

    def stamp(self, key: str) -> str:
        return self.source.stamp(key)

    def holds(self, key: str) -> bool:
        """Whether a frame is in memory, or will be once it was asked for."""
        return key in self._places

    def get(self, key: str, crop: Crop | None = None) -> np.ndarray:
        """A frame or a crop of it, from memory where it is kept; as of any source."""
        if key not in self._places:
            return self.source.get(key, crop)
        number, offset = self._places[key]
        height, width = self.size(key)
        place = np.frombuffer(self._frames, np.uint8, height * width * 3, offset).reshape(height, width, 3)
        if not self._filled[number]:
            place[...] = self.source.get(key)
            self._filled[number] = 1  # only now: another process must never see half a frame
        place.flags.writeable = False
        if crop is None:
            return place
        check_crop(crop, (height, width), self.where(key))
        return crop.of(place)


DEFAULT_CACHE_GB = {"auto": 2.0, "true": 8.0}


class FramePairs:
    """The LR and the HR side of a data set.

    Args (keys of ``opt``):
        dataroot_gt, dataroot_lq: folder or LMDB; without ``dataroot_lq`` the LR is made by ``degradation``, or read
            from the HR's own store where that keeps such LR; without ``dataroot_gt`` there is LR only, for testing.
        io_backend: ``{type: disk | lmdb}``; found out by itself when absent.
        scale, degradation ('BI', 'BD', 'none'), border ('symmetric', 'replicate').
        only: clips wanted, to spare the listing of a large folder.
    """

    def __init__(self, opt: Mapping[str, Any], only: Iterable[str] | None = None) -> None:
        self.scale = int(opt.get("scale", 1))
        backend = (opt.get("io_backend") or {}).get("type")
        roots = {side: opt.get(f"dataroot_{side}") for side in ("gt", "lq")}
        if not roots["gt"] and not roots["lq"]:
            raise UserError(f"{opt.get('name', 'data set')}: dataroot_gt (or dataroot_lq) is missing")
        only = None if only is None else list(only)
        opened = {s: open_source(Path(r).expanduser(), backend, only) if r else None for s, r in roots.items()}
        self.gt: FrameSource | None = opened["gt"]
        self.stored = opened["lq"] is not None
        self.lq: FrameSource = opened["lq"] or self._lower(opt)
        lmdbs = [source for source in (self.lq, self.gt) if isinstance(source, LmdbSource)]
        self._stores = list({source.root: source for source in lmdbs}.values())

    def _lower(self, opt: Mapping[str, Any]) -> FrameSource:
        """The LR of the HR frames: kept in the same store, or made when it is asked for."""
        kind, border = str(opt.get("degradation") or "BI"), str(opt.get("border") or "symmetric")
        if kind == "none":
            raise UserError(f"{opt.get('name', 'data set')}: degradation 'none' needs LR frames in dataroot_lq")
        assert self.gt is not None
        if isinstance(self.gt, LmdbSource):
            side = side_name(self.scale, kind, border)
            if side in self.gt.sides():
                return LmdbSource(self.gt.root, side)
        return DegradedSource(self.gt, self.scale, kind, border)

    def check(self, lq_key: str, gt_key: str) -> tuple[int, int]:
        """The LR size (h, w) of a pair; raises UserError when the HR is not ``scale`` times as large.

        HR frames whose sides are no multiples of the scale are cut at the right and bottom, which is said once.
        """
        size = self.lq.size(lq_key)
        if self.gt is None:
            return size
        full = self.gt.size(gt_key)
        even = mod_crop(full, self.scale)
        if min(size) < 1 or (size[0] * self.scale, size[1] * self.scale) != even:
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

    def cache(self, opt: Mapping[str, Any], lq_keys: Sequence[str], gt_keys: Sequence[str], default: Any) -> None:
        """Keeps decoded frames in memory as ``opt['cache']`` says.

        True: as many as ``cache_gb`` holds; 'auto': all of them, if they fit in ``cache_gb``; False: none.
        """
        mode = str(opt.get("cache", default)).lower()
        if mode not in ("true", "false", "auto"):
            raise UserError(f"cache '{opt['cache']}' is unknown; use true, false or auto")
        if mode == "false" or not lq_keys:
            return
        limit = int(min(float(opt.get("cache_gb") or DEFAULT_CACHE_GB[mode]), 2**30) * 2**30)
        if mode == "auto" and not self._fits(lq_keys, gt_keys, limit):
            return
        if self.gt is not None:
            self.gt = cached = CachedSource(self.gt, gt_keys, limit)
            limit -= cached.bytes
            if isinstance(self.lq, DegradedSource):
                self.lq.source = cached
        self.lq = CachedSource(self.lq, lq_keys, limit)

    def _fits(self, lq_keys: Sequence[str], gt_keys: Sequence[str], limit: int) -> bool:
        sides = [(self.lq, lq_keys)] + ([(self.gt, gt_keys)] if self.gt is not None and gt_keys else [])
        if sum(frame_bytes(source.size(keys[0])) * len(keys) for source, keys in sides) > 4 * limit:
            return False  # far too large, as the first frame tells: spare the look at each header
        return sum(frame_bytes(source.size(key)) for source, keys in sides for key in keys) <= limit

    def read(
        self, lq_keys: Sequence[str], gt_keys: Sequence[str], crop: Crop | None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """LR frames under an LR crop and HR frames under the same place, each file decoded once.

        What lies in one store is read in one transaction.
        """
        with contextlib.ExitStack() as stack:
            for store in () if self._in_memory(lq_keys, gt_keys) else self._stores:
                stack.enter_context(store.reading())
            return self._read(lq_keys, gt_keys, crop)

    def _in_memory(self, lq_keys: Sequence[str], gt_keys: Sequence[str]) -> bool:
        """Whether no store will be asked, but for a frame's first reading."""
        sides = [(self.lq, lq_keys)] + ([(self.gt, gt_keys)] if self.gt is not None else [])
        return all(isinstance(source, CachedSource) and all(map(source.holds, keys)) for source, keys in sides)

    def _read(
        self, lq_keys: Sequence[str], gt_keys: Sequence[str], crop: Crop | None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        cached = self.lq if isinstance(self.lq, CachedSource) else None
        maker = cached.source if cached else self.lq
        if isinstance(maker, DegradedSource):
            return self._read_degraded(maker, cached, lq_keys, gt_keys, crop)
        lq = _read_unique(self.lq, lq_keys, crop)
        if self.gt is None or not gt_keys:
            return lq, []
        return lq, _read_unique(self.gt, gt_keys, self._hr_crop(crop, lq_keys[0]))

    def _hr_crop(self, crop: Crop | None, lq_key: str) -> Crop:
        """The place of an LR crop in the HR frame; of the whole LR frame, where sides may have been cut."""
        return (crop or Crop(0, 0, *self.lq.size(lq_key))).scaled(self.scale)

    def _read_degraded(
        self,
        maker: DegradedSource,
        cached: CachedSource | None,
        lq_keys: Sequence[str],
        gt_keys: Sequence[str],
        crop: Crop | None,
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """LR that is made from HR: both sides of a frame that is not in memory from one decoding."""
        assert self.gt is not None
        low: dict[str, np.ndarray] = {}
        high: dict[str, np.ndarray] = {}
        for key in dict.fromkeys([*lq_keys, *gt_keys]):
            if cached is None or not cached.holds(key):
                low[key], high[key] = maker.get_pair(key, crop)
        for key in lq_keys:
            if key not in low:
                low[key] = self.lq.get(key, crop)
        for key in gt_keys:
            if key not in high:
                high[key] = self.gt.get(key, self._hr_crop(crop, key))
        return [low[key] for key in lq_keys], [high[key] for key in gt_keys]


def _read_unique(source: FrameSource, keys: Sequence[str], crop: Crop | None) -> list[np.ndarray]:
    """Frames for keys that may repeat, as they do at a clip's ends."""
    unique = list(dict.fromkeys(keys))
    frames = dict(zip(unique, source.get_many(unique, crop), strict=True))
    return [frames[key] for key in keys]


def color_of(opt: Mapping[str, Any]) -> str:
    """'rgb' or 'y'."""
    color = str(opt.get("color") or "rgb")
    if color not in ("rgb", "y"):
        raise UserError(f"{opt.get('name', 'data set')}: color '{color}' is unknown; use 'rgb' or 'y'")
    return color


def patch_of(opt: Mapping[str, Any]) -> int:
    """Side of the HR crop in pixels, 0 for whole frames."""
    patch, scale = int(opt.get("gt_size") or 0), int(opt.get("scale", 1))
    if patch < 0 or patch % scale:
        raise UserError(f"{opt.get('name', 'data set')}: gt_size {patch} is not a multiple of the scale {scale}")
    return patch
