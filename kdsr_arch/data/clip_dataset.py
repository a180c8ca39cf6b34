"""Clips for video super-resolution: REDS, Vimeo-90K septuplets, Vid4, REDS4 and any other folder or LMDB of clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdsr_arch.data.clips import PADDINGS, Clip, clip_views, first_gap, listed_clips, select_clips
from kdsr_arch.data.pairs import PairDataset
from kdsr_arch.data.store.teacher_store import View
from kdsr_arch.errors import UserError, notice
from kdsr_arch.registry import DATASET_REGISTRY

_CHECKED_AT_START = 1000  # clips whose frames are all compared at once; of larger folders, each when it is first used


@DATASET_REGISTRY.register()
@dataclass(kw_only=True, eq=False)
class ClipDataset(PairDataset):
    """Clips of consecutive frames with their LR, stored or made on the fly.

    In training (``phase: train``) one sample is ``clip_length`` N ground-truth frames and the N + num_frame - 1 LR
    frames that their windows cover, the end frames repeated at a clip's ends; crops, flips and directions are the
    same for all of them. In testing one sample is a whole clip.

    Args (beside those of :class:`PairDataset`):
        clip_length: N.
        num_frame: odd window length.
        interval_list: distances between frames to draw from.
        random_reverse: reverse time in half of the samples.
        padding: frames beyond a clip's ends in tests, one of :data:`PADDINGS`; training repeats the end frames.
        meta_info_file, clips, exclude, frames: which clips and which part of each (:func:`select_clips`).

    Attributes:
        selected: the clips.
    """

    clip_length: int = 1
    num_frame: int = 1
    interval_list: Sequence[int] = (1,)
    random_reverse: bool = False
    padding: str = "replicate"
    meta_info_file: str | Path | None = None
    clips: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    frames: Sequence[int | None] = (None, None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.intervals = sorted(self.interval_list)
        self._check_keywords()
        listed = listed_clips(self.meta_info_file) if self.meta_info_file else None
        wanted = list(self.clips or listed or ())
        self._open_pairs(wanted or None)
        self.selected: list[Clip] = select_clips(self.pairs, self.clips, self.exclude, self.frames, listed)
        self._sizes: dict[str, tuple[int, int]] = {}
        for clip in self.selected if len(self.selected) <= _CHECKED_AT_START else self.selected[:1]:
            self.size(clip)
        self.entries = self._starts() if self.train else self.selected
        self._check_teacher()
        lq_keys = [key for clip in self.selected for key in clip.lq]
        self._fill_cache(lq_keys, [key for clip in self.selected for key in clip.gt.values()])

    def _check_keywords(self) -> None:
        if self.num_frame < 1 or self.num_frame % 2 == 0:
            raise UserError(f"{self.name}: num_frame {self.num_frame} must be odd, so that the window has a center")
        if self.clip_length < 1 or self.intervals[0] < 1:
            raise UserError(f"{self.name}: clip_length and the values of interval_list must be 1 or more")
        if self.padding not in (PADDINGS if not self.train else PADDINGS[:1]):
            known = f"{', '.join(PADDINGS)} (training: replicate)"
            raise UserError(f"{self.name}: padding '{self.padding}' is not one of {known}")

    def size(self, clip: Clip) -> tuple[int, int]:
        """Return a clip's LR size (h, w).

        Raises:
            UserError: its frames differ in size, do not pair with the ground truth, or are too small or too few.
        """
        if clip.name not in self._sizes:
            sizes = {key: self.pairs.lq.size(key) for key in clip.lq}
            first = sizes[clip.lq[0]]
            for key, size in sizes.items():
                if size != first:
                    raise UserError(
                        f"{self.pairs.lq.where(key)} is {size[0]}x{size[1]}, other frames of the clip are "
                        f"{first[0]}x{first[1]}; all frames of a clip must have one size"
                    )
            for position, key in clip.gt.items():
                self.pairs.check(clip.lq[position], key)
            self._check_extent(clip, first)
            self._sizes[clip.name] = first
        return self._sizes[clip.name]

    def _check_extent(self, clip: Clip, size: tuple[int, int]) -> None:
        where = f"{self.pairs.lq.name}: clip '{clip.name}'"
        span = (self.clip_length - 1) * self.intervals[0] + 1 if self.train else 1
        if len(clip) < max(span, self.num_frame):
            raise UserError(
                f"{where} has {len(clip)} frames, fewer than the {max(span, self.num_frame)} that "
                f"num_frame {self.num_frame} and clip_length {self.clip_length} need"
            )
        if self.train and self.patch // self.scale > min(size):
            height, width = size[0] * self.scale, size[1] * self.scale
            raise UserError(f"{where} has frames of {height}x{width}, smaller than gt_size {self.patch}")
        gap = first_gap(clip.lq)
        if gap is not None:
            text = f"{where} has no frames between '{gap[0]}' and '{gap[1]}'; they are taken for neighbors"
            notice(f"gap {where}", text)

    def _starts(self) -> list[tuple[int, int]]:
        """(clip number, first ground-truth position) of every sample."""
        span = range(0, self.clip_length * self.intervals[0], self.intervals[0])
        starts = [
            (number, start)
            for number, clip in enumerate(self.selected)
            for start in clip.gt
            if all(start + offset in clip.gt for offset in span)
        ]
        if not starts:
            raise UserError(f"{self.pairs.lq.name}: no {self.clip_length} consecutive frames with a ground truth")
        return starts

    def _check_teacher(self) -> None:
        clips = self.selected[:_CHECKED_AT_START]
        self._open_teacher({clip.name: self.size(clip) for clip in clips})
        if self.teacher is None:
            return
        store, frames = self.teacher, self.teacher.num_frame
        if frames > self.num_frame:
            raise UserError(f"{store.path}: the teacher saw windows of {frames} frames; set num_frame to that")
        store.check_views(self._views(clips, frames, store.backwards and self.random_reverse))

    def teacher_views(self, num_frame: int, reverse: bool) -> list[View]:
        """List what a teacher of windows of ``num_frame`` frames (1: of images) is run on (kdsr cache-teacher).

        Args:
            reverse: also on the windows of samples that are played backwards.

        Raises:
            UserError: the windows are longer than the data set's.
        """
        if num_frame > self.num_frame:
            raise UserError(f"the teacher sees windows of {num_frame} frames: set datasets.train.num_frame to that")
        return list(self._views(self.selected, num_frame, reverse and self.random_reverse))

    def _views(self, clips: Sequence[Clip], num_frame: int, reverse: bool) -> Iterator[View]:
        for clip in clips:
            yield from clip_views(clip, num_frame, self.clip_length, self.intervals, reverse)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return a training sample that depends on ``index`` and ``rng`` only.

        Returns:
            lq: (N + num_frame - 1, C, h, w), gt: (N, C, H, W), float32 in [0, 1]; key: the first ground-truth frame;
            with ``teacher_cache``, teacher: what it holds of the N frames, by name, each (N, C', H', W') float16.
        """
        number, start = self.entries[index]
        clip = self.selected[number]
        gt_places, lq_places = self._frames_of(clip, start, rng)
        crop, flip = self._draw(rng, clip.name, self.size(clip))
        lq, gt = self._tensors([clip.lq[p] for p in lq_places], [clip.gt[p] for p in gt_places], crop, flip)
        item = {"lq": lq, "gt": gt, "key": clip.gt[gt_places[0]]}
        if self.teacher is not None:
            item["teacher"] = self.teacher.read_clip(clip.name, clip.gt, gt_places, lq_places, crop, flip)
        return item

    def _frames_of(self, clip: Clip, start: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """Positions of the HR and of the LR frames of a sample that begins at ``start``."""
        last = len(clip) - 1
        fitting = [i for i in self.intervals if all(start + i * j in clip.gt for j in range(self.clip_length))]
        interval = fitting[int(rng.integers(len(fitting)))]
        half = self.num_frame // 2
        gt = [start + interval * j for j in range(self.clip_length)]
        lq = [min(max(start + interval * j, 0), last) for j in range(-half, self.clip_length + half)]
        if self.random_reverse and rng.random() < 0.5:
            gt, lq = gt[::-1], lq[::-1]
        return gt, lq

    def whole(self, index: int) -> dict[str, Any]:
        """Return a clip for testing.

        Returns:
            lq: (T, C, h, w); gt: (G, C, H, W), absent without HR data; gt_index: the G positions in ``lq`` that have
            a ground truth; name: the clip; frames: names of the T frames.
        """
        clip = self.selected[index]
        self.size(clip)
        places = sorted(clip.gt)
        lq, gt = self._tensors(clip.lq, [clip.gt[p] for p in places])
        item = {"lq": lq, "name": clip.name, "frames": [clip.frame_name(p) for p in range(len(clip))]}
        return item if gt is None else {**item, "gt": gt, "gt_index": places}
