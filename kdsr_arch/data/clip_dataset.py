"""Clips for video super-resolution: REDS, Vimeo-90K septuplets, Vid4, REDS4 and any other folder or LMDB of clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from kdsr_arch.data.augment import Crop, Flip, allowed_flips, random_crop, random_flip, to_tensor
from kdsr_arch.data.clips import PADDINGS, Clip, clip_views, first_gap, listed_clips, select_clips
from kdsr_arch.data.pairs import FramePairs, color_of, patch_of
from kdsr_arch.data.store.teacher_store import TeacherStore, View
from kdsr_arch.errors import UserError, notice
from kdsr_arch.registry import DATASET_REGISTRY

_CHECKED_AT_START = 1000  # clips whose frames are all compared at once; of larger folders, each when it is first used


@DATASET_REGISTRY.register()
class ClipDataset(torch.utils.data.Dataset):
    """Clips of consecutive frames with their LR, stored or made on the fly.

    In training (``phase: train``) one sample is ``clip_length`` N ground-truth frames and the N + num_frame - 1 LR
    frames that their windows cover, the end frames repeated at a clip's ends; crops, flips and directions are the
    same for all of them. In testing one sample is a whole clip.

    Args (keys of ``opt``; those of :class:`FramePairs` as well):
        phase: 'train' or 'test' (also 'val').
        gt_size: side of the HR crop, a multiple of the scale.
        clip_length: N, 1 by default. num_frame: odd window length, 1 by default.
        interval_list: distances between frames to draw from, [1] by default.
        random_reverse: reverse time in half of the samples.
        use_hflip, use_rot: horizontal flip; vertical flip and 90-degree rotation.
        meta_info_file, clips, exclude, frames: which clips and which part of each (:func:`select_clips`).
        centre_only: in testing, give the center frame of each clip as the only ground truth (Vimeo-90K's protocol).
        color: 'rgb' or 'y'.
        cache, cache_gb: decoded frames in memory (:meth:`FramePairs.cache`); 'auto' in training, off in testing.
        teacher_cache: a store of what the teacher made of these frames (kdsr cache-teacher), read by the same crops.

    Raises:
        UserError: whatever is wrong with the data, naming the file or key.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = dict(opt)
        self.train = str(opt.get("phase", "train")).startswith("train")
        self.scale = int(opt.get("scale", 1))
        self.color = color_of(opt)
        self.clip_length = int(opt.get("clip_length") or 1)
        self.num_frame = int(opt.get("num_frame") or 1)
        self.intervals = sorted(int(i) for i in opt.get("interval_list") or [1])
        self._check_options()
        listed = listed_clips(opt["meta_info_file"]) if opt.get("meta_info_file") else None
        self.pairs = FramePairs(opt, only=[str(name) for name in opt.get("clips") or listed or []] or None)
        self.clips: list[Clip] = select_clips(self.pairs, opt, listed)
        self.patch = patch_of(opt) if self.train else 0
        self._sizes: dict[str, tuple[int, int]] = {}
        for clip in self.clips if len(self.clips) <= _CHECKED_AT_START else self.clips[:1]:
            self.size(clip)
        self._places = self._training_places() if self.train else []
        self.teacher = self._open_teacher(opt.get("teacher_cache")) if self.train else None
        self._fill_cache(opt)

    def _check_options(self) -> None:
        name = self.opt.get("name", "ClipDataset")
        if self.num_frame < 1 or self.num_frame % 2 == 0:
            raise UserError(f"{name}: num_frame {self.num_frame} must be odd, so that the window has a center")
        if self.clip_length < 1 or self.intervals[0] < 1:
            raise UserError(f"{name}: clip_length and the values of interval_list must be 1 or more")
        padding = self.opt.get("padding") or "replicate"
        if padding not in (PADDINGS if not self.train else PADDINGS[:1]):
            raise UserError(f"{name}: padding '{padding}' is not one of {', '.join(PADDINGS)} (training: replicate)")

    def _fill_cache(self, opt: Mapping[str, Any]) -> None:
        lq_keys = [key for clip in self.clips for key in clip.lq]
        gt_keys = [key for clip in self.clips for key in clip.gt.values()]
        self.pairs.cache(opt, lq_keys, gt_keys, "auto" if self.train else "false")

    def size(self, clip: Clip) -> tuple[int, int]:
        """LR size (h, w) of a clip; raises UserError when its frames differ, do not pair, or are too small or few."""
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
            gap = first_gap(clip.lq)
            if gap is not None:
                where = f"{self.pairs.lq.name}: clip '{clip.name}' has no frames between '{gap[0]}' and '{gap[1]}'"
                notice(f"gap {where}", f"{where}; they are taken for neighbours")
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

    def _training_places(self) -> list[tuple[int, int]]:
        """(clip number, first ground-truth position) of every sample."""
        span = range(0, self.clip_length * self.intervals[0], self.intervals[0])
        places = [
            (number, start)
            for number, clip in enumerate(self.clips)
            for start in clip.gt
            if all(start + offset in clip.gt for offset in span)
        ]
        if not places:
            raise UserError(f"{self.pairs.lq.name}: no {self.clip_length} consecutive frames with a ground truth")
        return places

    def _open_teacher(self, path: Any) -> TeacherStore | None:
        if not path:
            return None
        store = TeacherStore(path)
        if store.num_frame > self.num_frame:
            raise UserError(f"{store.path}: the teacher saw windows of {store.num_frame} frames; set num_frame to that")
        clips = self.clips[:_CHECKED_AT_START]
        flips = allowed_flips(bool(self.opt.get("use_hflip")), bool(self.opt.get("use_rot")))
        store.check(self.scale, {clip.name: self.size(clip) for clip in clips}, flips)
        store.check_patch(self.patch // self.scale)
        reverse = store.backwards and bool(self.opt.get("random_reverse"))
        store.check_views(self._views(clips, store.num_frame, reverse))
        return store

    def teacher_views(self, num_frame: int, reverse: bool) -> list[View]:
        """What a teacher of windows of ``num_frame`` frames (1: of images) is run on (kdsr cache-teacher).

        Args:
            reverse: also on the windows of samples that are played backwards.

        Raises:
            UserError: the windows are longer than the data set's.
        """
        if num_frame > self.num_frame:
            raise UserError(f"the teacher sees windows of {num_frame} frames: set datasets.train.num_frame to that")
        return list(self._views(self.clips, num_frame, reverse and bool(self.opt.get("random_reverse"))))

    def _views(self, clips: Sequence[Clip], num_frame: int, reverse: bool) -> Iterator[View]:
        for clip in clips:
            yield from clip_views(clip, num_frame, self.clip_length, self.intervals, reverse)

    def _taught(self, clip: Clip, gt_places: list[int], lq_places: list[int], crop: Crop | None, flip: Flip
                ) -> dict[str, Any]:  # fmt: skip
        """{teacher: {name: (N, C, H, W) float16}}; empty without store."""
        if self.teacher is None:
            return {}
        return {"teacher": self.teacher.read_clip(clip.name, clip.gt, gt_places, lq_places, crop, flip)}

    def _crop(self, clip: Clip, rng: np.random.Generator) -> Crop | None:
        """Where the sample is cut: anywhere, or in one of the windows that the teacher was run on."""
        size = self.size(clip)
        if self.teacher is not None and self.teacher.windows:
            return self.teacher.window(rng, clip.name)
        return random_crop(rng, size, self.patch // self.scale) if self.patch else None

    def __len__(self) -> int:
        return len(self._places) if self.train else len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A test clip; in training, a sample whose randomness comes from NumPy's global generator."""
        if not self.train:
            return self.whole_clip(self.clips[index])
        return self.sample(index, np.random.default_rng(np.random.randint(2**31)))

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A training sample that depends on ``index`` and ``rng`` only.

        Returns:
            lq: (N + num_frame - 1, C, h, w), gt: (N, C, H, W), float32 in [0, 1]; key: the first ground-truth frame;
            with ``teacher_cache``, teacher: what it holds of the N frames, by name, each (N, C', H', W') float16.
        """
        number, start = self._places[index]
        clip = self.clips[number]
        gt_places, lq_places = self._frames_of(clip, start, rng)
        crop = self._crop(clip, rng)
        flip = random_flip(rng, bool(self.opt.get("use_hflip")), bool(self.opt.get("use_rot")))
        lq, gt = self._tensors(clip, lq_places, gt_places, crop, flip)
        taught = self._taught(clip, gt_places, lq_places, crop, flip)
        return {"lq": lq, "gt": gt, **taught, "key": clip.gt[gt_places[0]]}

    def _frames_of(self, clip: Clip, start: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """Positions of the HR and of the LR frames of a sample that begins at ``start``."""
        last = len(clip) - 1
        fitting = [i for i in self.intervals if all(start + i * j in clip.gt for j in range(self.clip_length))]
        interval = fitting[int(rng.integers(len(fitting)))]
        half = self.num_frame // 2
        gt = [start + interval * j for j in range(self.clip_length)]
        lq = [min(max(start + interval * j, 0), last) for j in range(-half, self.clip_length + half)]
        if self.opt.get("random_reverse") and rng.random() < 0.5:
            gt, lq = gt[::-1], lq[::-1]
        return gt, lq

    def _tensors(self, clip: Clip, lq_places, gt_places, crop: Crop | None, flip=(False, False, False)):
        lq_keys, gt_keys = [clip.lq[p] for p in lq_places], [clip.gt[p] for p in gt_places]
        lq, gt = self.pairs.read(lq_keys, gt_keys, crop)
        return to_tensor(lq, flip, self.color), to_tensor(gt, flip, self.color) if gt else None

    def whole_clip(self, clip: Clip) -> dict[str, Any]:
        """A test sample.

        Returns:
            lq: (T, C, h, w); gt: (G, C, H, W), absent without HR data; gt_index: the G positions in ``lq`` that have
            a ground truth (all of them, or the center); name: the clip; frames: names of the T frames.
        """
        self.size(clip)
        places = sorted(clip.gt)
        if self.opt.get("centre_only"):
            places = [p for p in places if p == len(clip) // 2]
        lq, gt = self._tensors(clip, range(len(clip)), places, None)
        item = {"lq": lq, "name": clip.name, "frames": [clip.frame_name(p) for p in range(len(clip))]}
        return item if gt is None else {**item, "gt": gt, "gt_index": places}
