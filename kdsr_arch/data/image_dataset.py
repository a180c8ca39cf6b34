"""Pairs of still images for single-image super-resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kdsr_arch.data.augment import Crop, allowed_flips, random_crop, random_flip, to_tensor
from kdsr_arch.data.pairs import FramePairs, color_of, patch_of
from kdsr_arch.data.sources import clip_of
from kdsr_arch.data.store.teacher_store import TeacherStore, View
from kdsr_arch.errors import UserError, nearest
from kdsr_arch.registry import DATASET_REGISTRY

_CHECKED_AT_START = 1000  # images whose sizes are looked at before training; further ones when they are first used


@DATASET_REGISTRY.register()
class ImagePairDataset(torch.utils.data.Dataset):
    """Images from a folder or an LMDB with their LR, stored or made on the fly.

    Args (keys of ``opt``; those of :class:`FramePairs` as well):
        phase: 'train' (crops) or 'test' (whole images; also 'val').
        gt_size: side of the HR crop, a multiple of the scale.
        use_hflip, use_rot: horizontal flip; vertical flip and 90-degree rotation.
        enlarge_ratio: how often an epoch repeats each image.
        filename_tmpl: how the stored LR of an image is named, ``'{}x4'`` for DIV2K; '{}' by default.
        color: 'rgb' or 'y'.
        teacher_cache: a store of what the teacher made of these images (kdsr cache-teacher), read by the same crops.
        cache, cache_gb: decoded images in memory (:meth:`FramePairs.cache`); 'auto' in training, off in testing.

    Raises:
        UserError: whatever is wrong with the data, naming the file or key.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = dict(opt)
        self.train = str(opt.get("phase", "train")).startswith("train")
        self.scale = int(opt.get("scale", 1))
        self.color = color_of(opt)
        self.patch = patch_of(opt) if self.train else 0
        self.repeat = int(opt.get("enlarge_ratio") or 1) if self.train else 1
        self.pairs = FramePairs(opt)
        if self.train and self.pairs.gt is None:
            raise UserError(f"{opt.get('name', 'data set')}: dataroot_gt is missing: training needs the ground truth")
        self.keys = self._matched_keys()
        for lq_key, gt_key in self.keys[:_CHECKED_AT_START]:
            self.size(lq_key, gt_key)
        lq_keys, gt_keys = ([pair[side] for pair in self.keys] for side in (0, 1))
        self.pairs.cache(opt, lq_keys, gt_keys if self.pairs.gt is not None else [], "auto" if self.train else "false")
        self.teacher = self._open_teacher(opt.get("teacher_cache")) if self.train else None

    def _matched_keys(self) -> list[tuple[str, str]]:
        """(LR key, HR key) of every image."""
        if self.pairs.gt is None or not self.pairs.stored:
            return [(key, key) for key in self.pairs.lq]
        template = str(self.opt.get("filename_tmpl") or "{}")
        known = set(self.pairs.lq.keys())
        matched = [(_templated(key, template), key) for key in self.pairs.gt]
        for lq_key, gt_key in matched:
            if lq_key not in known:
                hint = nearest(lq_key, known)
                raise UserError(f"{self.pairs.lq.name}: no LR image '{lq_key}' for {self.pairs.gt.where(gt_key)}{hint}")
        strays = known - {lq_key for lq_key, _ in matched}
        if strays:
            raise UserError(f"{self.pairs.gt.name}: no HR image for {self.pairs.lq.where(min(strays))}")
        return matched

    def _open_teacher(self, path: Any) -> TeacherStore | None:
        if not path:
            return None
        store = TeacherStore(path)
        sizes = {gt_key: self.size(lq_key, gt_key) for lq_key, gt_key in self.keys[:_CHECKED_AT_START]}
        store.check(self.scale, sizes, allowed_flips(bool(self.opt.get("use_hflip")), bool(self.opt.get("use_rot"))))
        store.check_patch(self.patch // self.scale)
        return store

    def teacher_views(self, num_frame: int, reverse: bool) -> list[View]:
        """What a teacher is run on (kdsr cache-teacher): each image.

        Raises:
            UserError: the teacher takes windows of frames.
        """
        if num_frame > 1:
            raise UserError(f"a teacher of windows of {num_frame} frames needs a ClipDataset, not single images")
        return [View(gt_key, (lq_key,), gt_key) for lq_key, gt_key in self.keys]

    def _crop(self, rng: np.random.Generator, key: str, size: tuple[int, int]) -> Crop | None:
        """Where the sample is cut: anywhere, or in one of the windows that the teacher was run on."""
        if self.teacher is not None and self.teacher.windows:
            return self.teacher.window(rng, key)
        return random_crop(rng, size, self.patch // self.scale) if self.patch else None

    def size(self, lq_key: str, gt_key: str) -> tuple[int, int]:
        """LR size (h, w) of an image; raises UserError when the sides do not pair or are smaller than the patch."""
        height, width = self.pairs.check(lq_key, gt_key)
        if self.patch > min(height, width) * self.scale:
            source, key = (self.pairs.gt, gt_key) if self.pairs.gt is not None else (self.pairs.lq, lq_key)
            shape = f"{height * self.scale}x{width * self.scale}"
            raise UserError(f"{source.where(key)} gives {shape} pixels, smaller than the patch of gt_size {self.patch}")
        return height, width

    def __len__(self) -> int:
        return len(self.keys) * self.repeat

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A whole test image; in training, a sample whose randomness comes from NumPy's global generator."""
        if not self.train:
            return self.whole_image(index)
        return self.sample(index, np.random.default_rng(np.random.randint(2**31)))

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A training sample that depends on ``index`` and ``rng`` only.

        Returns:
            lq: (C, h, w), gt: (C, H, W), float32 in [0, 1]; key: the image; with a ``teacher_cache``, teacher: what it
            holds, by name, each (C', H', W') float16.
        """
        lq_key, gt_key = self.keys[index % len(self.keys)]
        size = self.size(lq_key, gt_key)
        crop = self._crop(rng, gt_key, size)
        flip = random_flip(rng, bool(self.opt.get("use_hflip")), bool(self.opt.get("use_rot")))
        lq, gt = self.pairs.read([lq_key], [gt_key], crop)
        item = {"lq": to_tensor(lq, flip, self.color)[0], "gt": to_tensor(gt, flip, self.color)[0], "key": gt_key}
        return item if self.teacher is None else {**item, "teacher": self.teacher.read(gt_key, crop, flip)}

    def whole_image(self, index: int) -> dict[str, Any]:
        """A test sample: lq (C, h, w); gt (C, H, W), cut to multiples of the scale, absent without HR data; name."""
        lq_key, gt_key = self.keys[index]
        self.size(lq_key, gt_key)
        lq, gt = self.pairs.read([lq_key], [gt_key] if self.pairs.gt is not None else [], None)
        item: dict[str, Any] = {"lq": to_tensor(lq, color=self.color)[0], "name": gt_key}
        return {**item, "gt": to_tensor(gt, color=self.color)[0]} if gt else item


def _templated(key: str, template: str) -> str:
    folder, name = clip_of(key), key.rpartition("/")[2]
    return f"{folder}/{template.format(name)}" if folder else template.format(name)
