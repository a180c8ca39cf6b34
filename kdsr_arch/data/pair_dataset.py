"""What our data sets of frames share: keywords, a look at all data beforehand, the draw of crops and flips."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from kdsr_arch.data.augment import NO_FLIP, Crop, Flip, allowed_flips, random_crop, random_flip, to_tensor
from kdsr_arch.data.pairs import FramePairs, PairOptions
from kdsr_arch.data.store.teacher_store import TeacherStore
from kdsr_arch.errors import Shortage, UserError, one_of

Size = tuple[int, int]
Keys = tuple[Iterable[str], Iterable[str]]
Unit = TypeVar("Unit")

CHECKED_FIRST = 1000  # images or clips looked at with `verify: first`; the others when they are first used
_SHOWN = 5  # of those left out on the console; the log file lists them all


def unknown_motion(gt: Tensor) -> dict[str, Tensor]:
    """Return flow and visible of a clip (N, C, H, W) whose motion is not known: nothing of it is visible."""
    frames, _, *size = gt.shape
    return {name: gt.new_zeros(frames - 1, planes, *size) for name, planes in (("flow", 2), ("visible", 1))}


@dataclass(kw_only=True, eq=False)
class PairDataset(PairOptions, torch.utils.data.Dataset):
    """What our data sets of frames share: their keywords, the draw of crops and flips, the teacher's store.

    Args (beside those of :class:`PairOptions`):
        phase: 'train' gives crops; 'val' and 'test' give whole frames.
        gt_size: side of the HR crop of a training sample, a multiple of the scale; None for whole frames.
        use_hflip, use_rot: horizontal flip; vertical flip and 90-degree rotation.
        color: 'rgb' or 'y'.
        verify: what is looked at before anything else: 'first', the headers of the first 1,000 images or clips;
            'headers', all of them; 'decode', all pixels.
        skip_bad: leave out and list images or clips that are at fault, instead of stopping at the first.
        cache, cache_gb: decoded frames in memory (:meth:`FramePairs.cache`); by default 'auto' in training, else none.
        teacher_cache: a store of a teacher's outputs for these frames (kdsr cache-teacher), read by the same crops; for
            training.

    Attributes:
        train: whether samples are crops for training.
        patch: side of the HR crop, 0 for whole frames.
        entries: what each index stands for.
        pairs: the frames.
        teacher: the store, or None.
        sizes: the LR sizes of the images or clips, with the first that has each.
        counts: LR and HR frames of a training sample; none for images.

    Raises:
        UserError: whatever is wrong with the data, naming the file or key.
    """

    phase: str = "train"
    gt_size: int | None = None
    use_hflip: bool = False
    use_rot: bool = False
    color: str = "rgb"
    verify: str = "headers"
    skip_bad: bool = False
    cache: bool | str | None = None
    cache_gb: float | None = None
    teacher_cache: str | Path | None = None

    def __post_init__(self) -> None:
        self.train = self.phase.startswith("train")
        self.patch = (self.gt_size or 0) if self.train else 0
        self.entries: Sequence[Any] = ()
        self.pairs: FramePairs  # opened by the subclass, which knows the clips to look for
        self.teacher: TeacherStore | None = None
        self.sizes: dict[tuple[int, int], str] = {}
        self.counts: tuple[int, ...] = ()
        one_of(self.name, "verify", self.verify, ("first", "headers", "decode"))
        if self.patch % self.scale:
            raise UserError(f"{self.name}: gt_size {self.patch} is not a multiple of the scale {self.scale}")

    def _sound(
        self, units: Sequence[Unit], frames: Callable[[Unit], Keys], check: Callable[[Unit], Size]
    ) -> list[Unit]:
        """Look at images or clips as `verify` says; return those that can be used.

        Args:
            frames: gives the LR and HR keys of one.
            check: gives its LR size; raises UserError where it is at fault.

        Raises:
            UserError: one is at fault, without `skip_bad`; or all are.
        """
        looked = units[:CHECKED_FIRST] if self.verify == "first" else units
        if self.verify != "first":
            keys = [frames(unit) for unit in looked]
            lq_keys, gt_keys = ([key for pair in keys for key in pair[side]] for side in (0, 1))
            self.pairs.inspect(lq_keys, gt_keys, self.verify == "decode")
        sound, faults = [], []
        for unit in looked:
            try:
                self.sizes.setdefault(check(unit), self.pairs.lq.where(next(iter(frames(unit)[0]))))
                sound.append(unit)
            except Shortage:
                raise
            except UserError as error:
                faults.append(str(error))
        self._tell(faults, len(looked))
        return [*sound, *units[len(looked) :]]

    def _tell(self, faults: Sequence[str], count: int) -> None:
        """Raise the first fault, or with `skip_bad` list them."""
        if faults and (not self.skip_bad or len(faults) == count):
            total = f" ({len(faults)} of {count} are at fault)" if len(faults) > 1 else ""
            raise UserError(f"{faults[0]}{total}")
        logger = logging.getLogger("kdsr")
        if faults:
            logger.warning(f"{self.name}: {len(faults)} of {count} are at fault and left out (skip_bad):")
        for number, fault in enumerate(faults):
            logger.warning(f"  {fault}", extra={"quiet": number >= _SHOWN})

    def sample_shapes(self) -> set[tuple[int, ...]]:
        """Return what training samples can measure, HR height and width last: one shape, where there are crops."""
        if self.patch:
            return {(*self.counts, self.patch, self.patch)}
        whole = {(height * self.scale, width * self.scale) for height, width in self.sizes}
        if self.teacher is not None and self.teacher.crops:
            whole = {(h * self.scale, w * self.scale) for crops in self.teacher.crops.values() for _, _, h, w in crops}
        turned = {(width, height) for height, width in whole} if self.use_rot else set()
        return {(*self.counts, *size) for size in whole | turned}

    def _fill_cache(self, lq_keys: Sequence[str], gt_keys: Sequence[str]) -> None:
        mode = ("auto" if self.train else False) if self.cache is None else self.cache
        self.pairs.cache(mode, self.cache_gb, lq_keys, gt_keys)

    def _open_teacher(self, sizes: Iterable[tuple[str, Size]]) -> None:
        """Open the store and check it against the LR sizes of images or clips."""
        if self.train and self.teacher_cache:
            self.teacher = TeacherStore(self.teacher_cache)
            flips = allowed_flips(self.use_hflip, self.use_rot)
            self.teacher.check(self.scale, dict(sizes), flips, self.patch // self.scale)
            self.teacher.check_pixels({*self.pairs.lq.keys()}, lambda key: self.pairs.read([key], [], None)[0][0])

    def _draw(self, rng: np.random.Generator, group: str, size: tuple[int, int]) -> tuple[Crop | None, Flip]:
        """Draw where an image or clip of an LR size is cut (anywhere, or where the teacher was run), and its flip."""
        if self.teacher is not None and self.teacher.crops:
            crops = self.teacher.crops[group]
            crop: Crop | None = Crop(*crops[int(rng.integers(len(crops)))])
        else:
            crop = random_crop(rng, size, self.patch // self.scale) if self.patch else None
        return crop, random_flip(rng, self.use_hflip, self.use_rot)

    def _tensors(
        self, lq_keys: Sequence[str], gt_keys: Sequence[str], crop: Crop | None = None, flip: Flip = NO_FLIP
    ) -> tuple[Tensor, Tensor | None]:
        """LR frames (T, C, h, w) and HR frames (G, C, H, W), None without HR keys."""
        lq, gt = self.pairs.read(lq_keys, gt_keys, crop)
        return to_tensor(lq, flip, self.color), to_tensor(gt, flip, self.color) if gt else None

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a whole test item; in training, a sample with random numbers from NumPy's global generator."""
        if not self.train:
            return self.whole(index)
        return self.sample(index, np.random.default_rng(np.random.randint(2**31)))

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return a training sample that depends on ``index`` and ``rng`` only."""
        raise NotImplementedError

    def whole(self, index: int) -> dict[str, Any]:
        """Return a test item."""
        raise NotImplementedError
