"""Clips rendered from photographs while training: a camera moves over them, and the exact flow comes with each clip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdsr_arch.data.augment import NO_FLIP, Crop, Flip, apply_flip, flip_flow, random_flip, to_tensor
from kdsr_arch.data.camera import Camera
from kdsr_arch.data.image_dataset import chosen_images
from kdsr_arch.data.pair_dataset import PairDataset
from kdsr_arch.data.pairs import FramePairs, degraded
from kdsr_arch.data.still_clip import Scene, draw_scene, exact_flow, render, shares_in_front
from kdsr_arch.errors import UserError
from kdsr_arch.registry import DATASET_REGISTRY

_BLUR = 6  # HR pixels that the Gaussian of 'BD' reaches
_TESTS = 0x57  # apart from the seeds of training


@DATASET_REGISTRY.register()
@dataclass(kw_only=True, eq=False)
class StillClipDataset(PairDataset):
    """Clips of a camera that moves over photographs, with the exact flow of every pixel.

    An index is a photograph; the motion, and the second photograph before it if there is one, are drawn for each
    sample. Only the crop is rendered, with what its LR needs around it. In tests there is one clip for each
    photograph, of ``clip_length`` frames of ``gt_size``, always the same.

    Args (beside those of :class:`PairDataset`; ``dataroot_gt`` holds the photographs, LR is made of the frames):
        clip_length: ground-truth frames N of a clip.
        num_frame: odd window length.
        camera: keywords of :class:`Camera`.
        meta_info_file, exclude: the photographs to take, all by default, and those to leave out.

    Attributes:
        knows_flow: whether samples bring their flow: those of two frames or more.
    """

    clip_length: int = 1
    num_frame: int = 1
    camera: Mapping[str, Any] | None = None
    meta_info_file: str | Path | None = None
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dataroot_lq", "teacher_cache"):
            if getattr(self, name):
                raise UserError(f"{self.name}: {name}: every clip is rendered anew, so nothing is stored of it")
        if not self.gt_size or self.gt_size % self.scale:
            raise UserError(f"{self.name}: gt_size says how large the clips are: a multiple of the scale {self.scale}")
        self.motion = Camera(**(self.camera or {}))
        self.counts = self.clip_length + self.num_frame - 1, self.clip_length
        self.knows_flow = self.clip_length > 1
        self.margin = self.scale * max(2, math.ceil(_BLUR / self.scale))  # HR pixels around a crop that its LR sees
        self.side = self.gt_size + 2 * self.margin
        self.pairs = FramePairs(self)
        assert self.pairs.gt is not None  # there is no dataroot_lq
        self.photos = self.pairs.gt
        keys = chosen_images(self.photos, self, self.meta_info_file, self.exclude)
        self.entries = keys = self._sound(keys, lambda key: ((key,), (key,)), self._clip_size)
        self._fill_cache([], keys)
        self.photos = self.pairs.gt  # in memory now, if there is room

    def _clip_size(self, key: str) -> tuple[int, int]:
        """Return the LR size of every clip; raise UserError where the photograph is too small for one."""
        assert self.gt_size is not None
        height, width = self.photos.size(key)
        needed = self.motion.needed((self.side, self.side))
        if height < needed[0] or width < needed[1]:
            raise UserError(
                f"{self.photos.where(key)} is {height}x{width}, too small for gt_size {self.gt_size}, which needs "
                f"photographs of {needed[0]}x{needed[1]} (less with a smaller gt_size or camera.density)"
            )
        return self.gt_size // self.scale, self.gt_size // self.scale

    def _photo_size(self, number: int) -> tuple[int, int]:
        self._clip_size(self.entries[number])
        return self.photos.size(self.entries[number])

    def _read(self, number: int, area: Crop) -> NDArray:
        return self.photos.get(self.entries[number], area)

    def _scene(self, index: int, rng: np.random.Generator, frames: int) -> Scene:
        return draw_scene(rng, index, len(self.entries), self._photo_size, (self.side, self.side), frames, self.motion)

    def _clip(self, scene: Scene, extra: int, flip: Flip = NO_FLIP) -> dict[str, Any]:
        """Render a scene; of its first and last ``extra`` frames there is LR only."""
        shares = shares_in_front(scene)
        frames = render(scene, self._read, shares)
        inner = Crop(self.margin, self.margin, self.side - 2 * self.margin, self.side - 2 * self.margin)
        around = slice(self.margin // self.scale, -self.margin // self.scale)
        low = degraded(frames, self.scale, self.degradation, self.border)[:, around, around]
        kept = slice(extra, len(frames) - extra)
        item = {
            "lq": to_tensor(list(low), flip, self.color),
            "gt": to_tensor([inner.of(frame) for frame in frames[kept]], flip, self.color),
        }
        if self.knows_flow:
            flow = exact_flow(scene.part(kept), None if shares is None else shares[kept], inner)
            item["flow"] = torch.from_numpy(np.ascontiguousarray(flip_flow(flow.vectors, flip)))
            item["visible"] = torch.from_numpy(np.ascontiguousarray(apply_flip(flow.visible, flip)))
        return item

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return a training sample that depends on ``index`` and ``rng`` only.

        Returns:
            lq: (N + num_frame - 1, C, h, w), gt: (N, C, H, W), float32 in [0, 1]; key: the photograph; for N > 1
            flow: (N - 1, 2, H, W), the motion (dx, dy) in HR pixels from each ground-truth frame to the next: what is
            at p there is at p + flow here; visible: (N - 1, 1, H, W): 1 where that is so, 0 where p is hidden in the
            next frame, leaves it, or lies on an outline.
        """
        flip = random_flip(rng, self.use_hflip, self.use_rot)
        scene = self._scene(index, rng, self.counts[0])
        return {**self._clip(scene, self.num_frame // 2, flip), "key": self.entries[index]}

    def whole(self, index: int) -> dict[str, Any]:
        """Return a clip for testing: lq (N, C, h, w); gt, flow and visible as of :meth:`sample`; name; frames."""
        scene = self._scene(index, np.random.default_rng([_TESTS, index]), self.clip_length)
        names = [f"{number:08d}" for number in range(self.clip_length)]
        return {**self._clip(scene, 0), "name": self.entries[index], "frames": names}
