"""Pairs of still images for single-image super-resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.data.augment import Crop, Flip, random_flip, window_sums
from kdsr_arch.data.image_file import without_image_suffix
from kdsr_arch.data.keys import fill_template, read_list
from kdsr_arch.data.pair_dataset import CHECKED_FIRST, PairDataset
from kdsr_arch.data.pairs import FramePairs, PairOptions
from kdsr_arch.data.sources import FrameSource, open_source
from kdsr_arch.data.store.teacher_store import View
from kdsr_arch.errors import UserError, nearest
from kdsr_arch.registry import DATASET_REGISTRY

_ANYWHERE = 0.5  # of the crops; else what the map leaves out would be unlearned
_KEPT = 256  # maps in memory


def chosen_images(
    source: FrameSource, options: PairOptions, meta_info_file: str | Path | None, exclude: Sequence[str]
) -> list[str]:
    """Choose the images of a source that a list file names, in its order, all by default, and ``exclude`` does not.

    Raises:
        UserError: a name that the source does not have, or no image is left.
    """
    keys = source.keys()
    known = set(keys)

    def key(where: str, *names: str) -> str:
        found = next((key for key in (*names, *map(without_image_suffix, names)) if key in known), None)
        if found is None:
            name = names[-1]
            raise UserError(f"{where}: no image '{name}' in {source.name}{nearest(name, keys[:5000])}")
        return found

    if meta_info_file:
        listed = read_list(meta_info_file, options.named_roots(), counts=False)
        keys = [key(entry.where, entry.line, entry.name) for entry in listed]
    without = {key(f"{options.name}: exclude", name) for name in exclude}
    chosen = [name for name in keys if name not in without]
    if not chosen:
        raise UserError(f"{source.name}: no image is left after 'meta_info_file' and 'exclude'")
    return chosen


class CropWeights:
    """A folder or store of maps, one for each LR image, of its name and size, that say where its crops are drawn: half
    of them anywhere, half the likelier the brighter the map is.

    Args:
        path: the folder or store.
        patch: side of a crop in LR pixels.

    Raises:
        UserError: there is no such folder or store.
    """

    def __init__(self, path: str | Path, patch: int) -> None:
        self.source, self.patch = open_source(Path(path)), patch
        self.keys = set(self.source.keys())
        self._chances = lru_cache(_KEPT)(self._read)

    def check(self, key: str, size: tuple[int, int]) -> None:
        """Raise UserError unless there is a map for an image of an LR size."""
        if key not in self.keys:
            raise UserError(f"{self.source.name}: no map for image '{key}'; crop_weights needs one for each")
        if self.source.size(key) != size:
            height, width = self.source.size(key)
            raise UserError(f"{self.source.where(key)}: is {height}x{width}, but its image is {size[0]}x{size[1]}")

    def draw(self, rng: np.random.Generator, key: str) -> Crop:
        """Draw a crop of an image."""
        chances = self._chances(key)
        height, width = (side - self.patch + 1 for side in self.source.size(key))
        place = int(rng.integers(height * width))
        if rng.random() >= _ANYWHERE:
            place = min(int(np.searchsorted(chances, rng.random() * chances[-1], side="right")), height * width - 1)
        return Crop(place // width, place % width, self.patch, self.patch)

    def _read(self, key: str) -> NDArray[np.float32]:
        """Return the sums of the map under each place of a crop, added up over the places."""
        under = window_sums(self.source.get(key)[..., 0].astype(np.float64), self.patch, self.patch)
        return np.cumsum(under + 1e-6 * self.patch**2).astype(np.float32)


@DATASET_REGISTRY.register()
@dataclass(kw_only=True, eq=False)
class ImagePairDataset(PairDataset):
    """Images from a folder or an LMDB with their LR, stored or made on the fly.

    Args (beside those of :class:`PairDataset`):
        filename_tmpl: the name of an image's stored LR, ``'{}x4'`` for DIV2K.
        meta_info_file, exclude: the images to take, all by default, and those to leave out; with or without suffix.
        crop_weights: maps that say where crops are drawn (:class:`CropWeights`); by default anywhere.
    """

    filename_tmpl: str = "{}"
    meta_info_file: str | Path | None = None
    exclude: Sequence[str] = ()
    crop_weights: str | Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        maps = self.crop_weights if self.patch else None  # which training alone has
        self._weights = CropWeights(maps, self.patch // self.scale) if maps else None
        self.pairs = FramePairs(self)
        if self.train and self.pairs.gt is None:
            raise UserError(f"{self.name}: dataroot_gt is missing: training needs the ground truth")
        self.entries = self._matched_keys()
        self.entries = self._sound(self.entries, lambda pair: (pair[:1], pair[1:]), lambda pair: self.size(*pair))
        self._open_teacher((gt_key, self.size(lq_key, gt_key)) for lq_key, gt_key in self.entries[:CHECKED_FIRST])
        lq_keys, gt_keys = ([pair[side] for pair in self.entries] for side in (0, 1))
        self._fill_cache(lq_keys, gt_keys if self.pairs.gt is not None else [])

    def _matched_keys(self) -> list[tuple[str, str]]:
        """(LR key, HR key) of every image that is wanted."""
        if self.pairs.gt is None or not self.pairs.stored:
            return [(key, key) for key in self._chosen(self.pairs.lq)]
        known = set(self.pairs.lq.keys())
        matched = []
        for gt_key in self._chosen(self.pairs.gt):
            folder, slash, name = gt_key.rpartition("/")
            lq_key = f"{folder}{slash}{fill_template(self.filename_tmpl, name, self.name)}"
            matched.append((lq_key, gt_key))
            if lq_key not in known:
                hint = nearest(lq_key, known)
                raise UserError(f"{self.pairs.lq.name}: no LR image '{lq_key}' for {self.pairs.gt.where(gt_key)}{hint}")
        strays = known - {lq_key for lq_key, _ in matched}
        if strays and not self.meta_info_file and not self.exclude:
            raise UserError(f"{self.pairs.gt.name}: no HR image for {self.pairs.lq.where(min(strays))}")
        return matched

    def _chosen(self, source: FrameSource) -> list[str]:
        return chosen_images(source, self, self.meta_info_file, self.exclude)

    def teacher_views(self, num_frame: int, reverse: bool, run: int = 0) -> list[View]:
        """List what a teacher is run on (kdsr cache-teacher): each image.

        Raises:
            UserError: the teacher takes windows or runs of frames.
        """
        if run or num_frame > 1:
            frames = "clips" if run else f"windows of {num_frame} frames"
            raise UserError(f"a teacher of {frames} needs a ClipDataset, not single images")
        return [View((lq_key,), gt_key, (gt_key,), (gt_key,)) for lq_key, gt_key in self.entries]

    def size(self, lq_key: str, gt_key: str) -> tuple[int, int]:
        """Return the LR size (h, w) of an image.

        Raises:
            UserError: the sides do not pair, or are smaller than the crop.
        """
        height, width = self.pairs.check(lq_key, gt_key)
        if self.patch > min(height, width) * self.scale:
            source, key = (self.pairs.gt, gt_key) if self.pairs.gt is not None else (self.pairs.lq, lq_key)
            shape = f"{height * self.scale}x{width * self.scale}"
            raise UserError(f"{source.where(key)} gives {shape} pixels, smaller than the patch of gt_size {self.patch}")
        if self._weights is not None:
            self._weights.check(lq_key, (height, width))
        return height, width

    def place(self, index: int, rng: np.random.Generator) -> tuple[Crop | None, Flip]:
        """Draw where a training sample is cut, in LR pixels, and how it is flipped."""
        lq_key, gt_key = self.entries[index]
        size = self.size(lq_key, gt_key)
        if self._weights is not None:
            return self._weights.draw(rng, lq_key), random_flip(rng, self.use_hflip, self.use_rot)
        return self._draw(rng, gt_key, size)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return a training sample that depends on ``index`` and ``rng`` only.

        Returns:
            lq: (C, h, w), gt: (C, H, W), float32 in [0, 1]; key: the image; with a ``teacher_cache``, teacher: what it
            holds, by name, each (C', H', W') float16.
        """
        lq_key, gt_key = self.entries[index]
        crop, flip = self.place(index, rng)
        lq, gt = self._tensors([lq_key], [gt_key], crop, flip)
        assert gt is not None
        item: dict[str, Any] = {"lq": lq[0], "gt": gt[0], "key": gt_key}
        return item if self.teacher is None else {**item, "teacher": self.teacher.read(gt_key, crop, flip)}

    def whole(self, index: int) -> dict[str, Any]:
        """Return an image for testing: lq (C, h, w); gt (C, H, W), cut to multiples of the scale, if any; name."""
        lq_key, gt_key = self.entries[index]
        self.size(lq_key, gt_key)
        lq, gt = self._tensors([lq_key], [gt_key] if self.pairs.gt is not None else [])
        item: dict[str, Any] = {"lq": lq[0], "name": gt_key}
        return item if gt is None else {**item, "gt": gt[0]}
