"""Clips for video super-resolution: REDS, Vimeo-90K septuplets, Vid4, REDS4 and any other folder or LMDB of clips."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdsr_arch.data.augment import NO_FLIP, Crop, Flip
from kdsr_arch.data.flow_image import read_flow
from kdsr_arch.data.keys import read_list
from kdsr_arch.data.pair_dataset import CHECKED_FIRST, PairDataset, unknown_motion
from kdsr_arch.data.pairs import FramePairs
from kdsr_arch.data.teacher_views import View, run_around, run_keys, run_view, window_key, window_keys
from kdsr_arch.errors import UserError, nearest, notice
from kdsr_arch.registry import DATASET_REGISTRY


@dataclass(frozen=True)
class Clip:
    """A clip: all its frames, and the position among them of each frame that has a ground truth.

    Attributes:
        lq: keys of the LR frames in order.
        gt: keys of the HR frames, by position in ``lq``; normally as many as ``lq``, but Vimeo-90K's HR store may hold
            the center frames only.
    """

    name: str
    lq: tuple[str, ...]
    gt: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.lq)


def listed_clips(path: str | Path, roots: Mapping[Path, str] | None = None) -> dict[str, int | None]:
    """Read the clips named in a list file (:func:`read_list`), with their frame counts where the file gives them."""
    clips = {listed.name: listed.frames for listed in read_list(path, roots)}
    if not clips:
        raise UserError(f"{path}: lists no clips")
    return clips


def _refuse_strays(pairs: FramePairs, gt_names: Collection[str], lq_names: Collection[str]) -> None:
    """Raise UserError for an HR clip or frame without its LR: a mistake, not something to leave out in silence."""
    strays = [name for name in gt_names if name not in lq_names]
    if strays:
        assert pairs.gt is not None
        raise UserError(f"{pairs.lq.name}: nothing that pairs with {pairs.gt.where(strays[0])}")


def _ground_truth(
    pairs: FramePairs, name: str, lq: Sequence[str], gt_clips: Mapping[str, Sequence[str]]
) -> dict[int, str]:
    """Positions in ``lq`` that have an HR frame: all of them, or the center alone, or the data does not pair."""
    if pairs.gt is None:
        return {}
    if name not in gt_clips:
        raise UserError(f"{pairs.gt.name}: no clip '{name}', which {pairs.lq.name} has{nearest(name, list(gt_clips))}")
    known = set(gt_clips[name])
    present = {position: key for position, key in enumerate(lq) if key in known}
    if len(present) == len(lq) or set(present) == {len(lq) // 2}:
        return present
    missing = next(key for key in lq if key not in known)
    raise UserError(f"{pairs.gt.name}: no HR frame '{missing}' for {pairs.lq.where(missing)}")


def numbering_fault(keys: Sequence[str]) -> tuple[str, str] | None:
    """Say what is wrong with the numbers of a clip's frames, and what mends it; None where nothing is.

    Args:
        keys: of one clip, in order. Numbers may go up in steps of any one size; names that do not end in a number, or
            differ in what is before it, are not judged.
    """
    numbered = [re.fullmatch(r"(.*?)(\d+)", key) for key in keys]
    if len(keys) < 3 or None in numbered or len({match[1] for match in numbered if match}) > 1:
        return None
    numbers = [int(match[2]) for match in numbered if match]
    steps = [after - before for before, after in zip(numbers, numbers[1:], strict=False)]
    usual = min(steps)
    place = next((index for index, step in enumerate(steps) if step == 0 or step != usual), None)
    if place is None:
        return None
    both = f"'{keys[place]}' and '{keys[place + 1]}'"
    if steps[place] == 0:
        return f"{both} of one number", "remove one of them"
    return f"no frames between {both}", "copy the missing files"


def samples_of(clip: Clip, clip_length: int, intervals: Sequence[int]) -> Iterator[tuple[range, int]]:
    """Yield the positions of the ground-truth frames of every training sample of a clip, with their interval."""
    for start, interval in itertools.product(clip.gt, intervals):
        sample = range(start, start + interval * clip_length, interval)
        if all(place in clip.gt for place in sample):
            yield sample, interval


def clip_views(clip: Clip, num_frame: int, clip_length: int, intervals: Sequence[int], reverse: bool) -> Iterator[View]:
    """Yield every window of ``num_frame`` frames around a ground-truth frame that training samples of a clip can hold.

    Args:
        num_frame: the teacher's; 1: of images.
        clip_length, intervals: the data set's.
        reverse: samples are played backwards too.
    """
    centers = {(place, interval) for sample, interval in samples_of(clip, clip_length, intervals) for place in sample}
    last, half, seen = len(clip) - 1, num_frame // 2, set()
    for center, interval in sorted(centers):
        places = [min(max(center + interval * j, 0), last) for j in range(-half, half + 1)]
        for order in (places, places[::-1]) if reverse else (places,):
            gt = clip.gt[center]
            key = window_key(gt, order)
            if key not in seen:
                seen.add(key)
                yield View(tuple(clip.lq[place] for place in order), clip.name, (gt,), (key,))


def clip_runs(clip: Clip, length: int, clip_length: int, intervals: Sequence[int], reverse: bool) -> Iterator[View]:
    """Yield the runs of ``length`` frames (:func:`run_around`) in which a recurrent teacher restores a clip's samples.

    Args:
        clip_length, intervals: the data set's.
        reverse: samples are played backwards too, and so is each run.
    """
    samples = samples_of(clip, clip_length, intervals)
    around = (run_around(sample[0], clip_length, interval, len(clip), length) for sample, interval in samples)
    for run in dict.fromkeys(run for run in around if run is not None and all(place in clip.gt for place in run)):
        for order in (run, run[::-1]) if reverse else (run,):
            yield run_view(clip.lq, clip.gt, order, clip.name)


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
        padding: frames beyond a clip's ends in tests, see the option; training repeats the end frames.
        meta_info_file, clips, exclude: the clips to take, all by default, and those to leave out.
        frames: ``[start, stop]``, the part of each clip to use, as a Python slice.
        flow: read the exact flow that a store keeps beside its frames in training, too.

    Attributes:
        selected: the clips.
        knows_flow: whether training samples bring their flow.
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
    flow: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train and self.padding != "replicate":
            raise UserError(f"{self.name}: padding '{self.padding}' is for tests only; in training use replicate")
        if not self.interval_list:
            raise UserError(f"{self.name}: interval_list is empty; [1] takes neighboring frames")
        if self.clips is not None and not self.clips:
            raise UserError(f"{self.name}: clips is empty; name some, or take it out for all")
        self.intervals = sorted(self.interval_list)
        self.counts = self.clip_length + self.num_frame - 1, self.clip_length
        listed = listed_clips(self.meta_info_file, self.named_roots()) if self.meta_info_file else {}
        wanted = list(self.clips or listed)
        self.pairs = FramePairs(self, wanted or None)
        self._moving = frozenset(self.pairs.flow or ())
        self.knows_flow = self.train and self.flow and self.clip_length > 1
        if self.knows_flow and not self._moving:
            raise UserError(
                f"{self.name}: flow: nothing in dataroot_gt keeps the flow of its frames; make a store with kdsr lmdb "
                "create --kind stills, or take flow out"
            )
        if self.knows_flow and 1 not in self.intervals:
            raise UserError(f"{self.name}: flow: it is known between neighboring frames alone; add 1 to interval_list")
        self.selected = self._select(wanted, listed)
        self._sizes: dict[str, tuple[int, int]] = {}
        self.selected = self._sound(self.selected, lambda clip: (clip.lq, clip.gt.values()), self.size)
        clips = self.selected[:CHECKED_FIRST]
        self._open_teacher((clip.name, self.size(clip)) for clip in clips)
        if (store := self.teacher) is not None:
            frames = store.num_frame
            if frames > self.num_frame:
                raise UserError(f"{store.path}: the teacher saw windows of {frames} frames; set num_frame to that")
            if 0 < store.run < self.clip_length:
                raise UserError(f"{store.path}: the teacher saw clips of {store.run} frames; set clip_length to that")
            store.check_views(self._views(clips, frames, store.backwards, store.run))
        self.entries = self._starts() if self.train else self.selected
        lq_keys = [key for clip in self.selected for key in clip.lq]
        self._fill_cache(lq_keys, [key for clip in self.selected for key in clip.gt.values()])

    def _select(self, wanted: Sequence[str], listed: Mapping[str, int | None]) -> list[Clip]:
        """Choose those of the ``wanted`` clips (by default all) that ``exclude`` and the list file leave."""
        pairs, origin = self.pairs, self.pairs.lq.name
        lq_clips = pairs.lq.clips()
        gt_clips = pairs.gt.clips() if pairs.stored and pairs.gt is not None else lq_clips
        if not wanted:
            _refuse_strays(pairs, gt_clips, lq_clips)
            wanted = list(lq_clips)
        for name in (*wanted, *self.exclude):
            if name not in lq_clips:
                named = f", which {self.meta_info_file} lists" if name in listed else ""
                raise UserError(f"{origin}: no clip '{name}'{named}{nearest(name, lq_clips)}")
        clips = []
        for name in wanted:
            if name in self.exclude or (listed and name not in listed):
                continue
            count, lq = listed.get(name), lq_clips[name]
            if count is not None and len(lq) < count:
                raise UserError(f"{origin}: clip '{name}' has {len(lq)} of the {count} frames listed")
            if count is None and name in gt_clips:
                _refuse_strays(pairs, gt_clips[name], frozenset(lq))
            lq = lq[:count][slice(*self.frames)]
            if not lq:
                raise UserError(f"{origin}: clip '{name}' has no frames in the range {list(self.frames)}")
            clips.append(Clip(name or Path(origin).stem, tuple(lq), _ground_truth(pairs, name, lq, gt_clips)))
        if not clips:
            raise UserError(f"{origin}: no clip is left after 'clips', 'exclude' and 'meta_info_file'")
        return clips

    def size(self, clip: Clip) -> tuple[int, int]:
        """Return a clip's LR size (h, w).

        Raises:
            UserError: its frames differ in size, do not pair with the ground truth, or are too small or too few.
        """
        if clip.name in self._sizes:
            return self._sizes[clip.name]
        lq, where = self.pairs.lq, f"{self.pairs.lq.name}: clip '{clip.name}'"
        height, width = first = lq.size(clip.lq[0])
        for key in clip.lq:
            if (size := lq.size(key)) != first:
                raise UserError(
                    f"{lq.where(key)} is {size[0]}x{size[1]} as LR, other frames of the clip are {height}x{width}; "
                    "all frames of a clip must have one size"
                )
        for position, key in clip.gt.items():
            self.pairs.check(clip.lq[position], key)
        needed = max((self.clip_length - 1) * self.intervals[0] + 1 if self.train else 1, self.num_frame)
        if len(clip) < needed:
            raise UserError(
                f"{where} has {len(clip)} frames, fewer than the {needed} that num_frame {self.num_frame} and "
                f"clip_length {self.clip_length} need"
            )
        if self.train and self.patch // self.scale > min(first):
            shape = f"{height * self.scale}x{width * self.scale}"
            raise UserError(f"{where} has frames of {shape}, smaller than gt_size {self.patch}")
        if fault := numbering_fault(clip.lq):
            notice(f"gap {where}", f"{where} has {fault[0]}; they are taken for neighbors")
        self._sizes[clip.name] = first
        return first

    def _starts(self) -> list[tuple[int, int]]:
        """(clip number, first ground-truth position) of every sample."""
        starts = [
            (number, start)
            for number, clip in enumerate(self.selected)
            for start in clip.gt
            if any(self._fits(clip, start, interval) for interval in self.intervals)
        ]
        if not starts:
            raise UserError(f"{self.pairs.lq.name}: no {self.clip_length} consecutive frames with a ground truth")
        return starts

    def _fits(self, clip: Clip, start: int, interval: int) -> bool:
        """Whether a sample has a ground truth for all its frames and, of a recurrent teacher's store, one run."""
        if not all(start + interval * j in clip.gt for j in range(self.clip_length)):
            return False
        return not self._run_length or self._run(clip, start, interval) is not None

    @property
    def _run_length(self) -> int:
        return 0 if self.teacher is None else self.teacher.run

    def _run(self, clip: Clip, start: int, interval: int) -> range | None:
        return run_around(start, self.clip_length, interval, len(clip), self._run_length)

    def teacher_views(self, num_frame: int, reverse: bool, run: int = 0) -> list[View]:
        """List what a teacher is run on (kdsr cache-teacher).

        Args:
            num_frame: length of its windows; 1: a teacher of images.
            reverse: also on the frames of samples that are played backwards.
            run: frames that a recurrent teacher restores at once; 0 for others.

        Raises:
            UserError: windows longer than the data set's, runs shorter than its samples, or no clip of that length.
        """
        if num_frame > self.num_frame:
            raise UserError(f"the teacher sees windows of {num_frame} frames: set datasets.train.num_frame to that")
        if 0 < run < self.clip_length:
            raise UserError(f"--frames {run}: fewer than clip_length {self.clip_length}, the frames of a sample")
        return list(self._views(self.selected, num_frame, reverse, run))

    def _views(self, clips: Sequence[Clip], num_frame: int, reverse: bool, run: int) -> Iterator[View]:
        sample = self.clip_length, self.intervals, reverse and self.random_reverse
        for clip in clips:
            yield from clip_runs(clip, run, *sample) if run else clip_views(clip, num_frame, *sample)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return a training sample that depends on ``index`` and ``rng`` only.

        Returns:
            lq: (N + num_frame - 1, C, h, w), gt: (N, C, H, W), float32 in [0, 1]; key: the first ground-truth frame;
            with ``teacher_cache``, teacher: what it holds of the N frames, by name, each (N, C', H', W') float16;
            with ``flow``, flow and visible as of StillClipDataset. Nothing is visible where the store does not know the
            motion: of other clips, between frames that do not follow each other, and backwards in time.
        """
        number, start = self.entries[index]
        clip = self.selected[number]
        gt_places, lq_places, run = self._frames_of(clip, start, rng)
        crop, flip = self._draw(rng, clip.name, self.size(clip))
        lq, gt = self._tensors([clip.lq[p] for p in lq_places], [clip.gt[p] for p in gt_places], crop, flip)
        item = {"lq": lq, "gt": gt, "key": clip.gt[gt_places[0]]}
        if self.teacher is not None:
            store = self.teacher
            if run is not None:
                keys = run_keys(clip.gt, gt_places, run, store.backwards)
            else:
                keys = window_keys(clip.gt, gt_places, lq_places, store.num_frame, store.backwards)
            item["teacher"] = store.read_clip(clip.name, keys, crop, flip)
        if self.knows_flow and gt is not None:
            item |= self._flow(clip, gt_places, gt.shape[-2:], crop, flip) or unknown_motion(gt)
        return item

    def _frames_of(
        self, clip: Clip, start: int, rng: np.random.Generator
    ) -> tuple[list[int], list[int], Sequence[int] | None]:
        """Positions of a sample's HR and LR frames, and of the run that holds it in a recurrent teacher's store."""
        last = len(clip) - 1
        fitting = [interval for interval in self.intervals if self._fits(clip, start, interval)]
        interval = fitting[int(rng.integers(len(fitting)))]
        run: Sequence[int] | None = self._run(clip, start, interval) if self._run_length else None
        half = self.num_frame // 2
        gt = [start + interval * j for j in range(self.clip_length)]
        lq = [min(max(start + interval * j, 0), last) for j in range(-half, self.clip_length + half)]
        if self.random_reverse and rng.random() < 0.5:
            gt, lq, run = gt[::-1], lq[::-1], None if run is None else run[::-1]
        return gt, lq, run

    def whole(self, index: int) -> dict[str, Any]:
        """Return a clip for testing.

        Returns:
            lq: (T, C, h, w); gt: (G, C, H, W), absent without HR data; gt_index: the G positions in ``lq`` that have
            a ground truth; name: the clip; frames: names of the T frames; and flow and visible, as of StillClipDataset,
            where the store keeps them.
        """
        clip = self.selected[index]
        self.size(clip)
        places = sorted(clip.gt)
        lq, gt = self._tensors(clip.lq, [clip.gt[p] for p in places])
        item = {"lq": lq, "name": clip.name, "frames": [key.rpartition("/")[2] for key in clip.lq]}
        return item if gt is None else {**item, "gt": gt, "gt_index": places, **self._flow(clip, places, gt.shape[-2:])}

    def _flow(
        self, clip: Clip, places: Sequence[int], size: Sequence[int], crop: Crop | None = None, flip: Flip = NO_FLIP
    ) -> dict[str, torch.Tensor]:
        """Read the flow between frames of a clip, each the next of the one before, if the store keeps it.

        Args:
            size: of the ground truth (H, W), which is cut to multiples of the scale.
            crop: in LR pixels; what leaves it counts as not visible.
        """
        keys, source = [clip.gt[place] for place in places][:-1], self.pairs.flow
        following = all(after == before + 1 for before, after in itertools.pairwise(places))
        if source is None or not keys or not following or not self._moving.issuperset(keys):
            return {}
        area = crop.scaled(self.scale) if crop else Crop(0, 0, *size)
        flow = read_flow(source, keys, area, flip, cut=crop is not None)
        return {name: torch.from_numpy(planes) for name, planes in flow.items()}
