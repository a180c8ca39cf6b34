"""Training images that lie on the device: crops and flips are cut there, so that no sample travels.

The loader's workers draw where each sample is cut, from the same random numbers as ever; a batch that travels is a few
integers for each sample. What is cut is bit for bit what the loader would have brought.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdsr_arch.data.augment import Crop, apply_flip, flip_number, flip_of, to_tensor
from kdsr_arch.data.image_dataset import ImagePairDataset
from kdsr_arch.data.store.teacher_store import TeacherStore
from kdsr_arch.errors import UserError
from kdsr_arch.log import get_logger

PLAN = "plan"
"""Key of a batch that is still to be cut: (B, 4) int64, each index, top, left (LR pixels), number of the flip."""


class PlannedDataset(Dataset):
    """The cuts of a data set, in the place of its samples.

    Raises:
        UserError: a data set whose samples cannot be cut on the device.
    """

    def __init__(self, dataset: Any, key: str = "datasets.train") -> None:
        if not isinstance(dataset, ImagePairDataset):
            raise UserError(f"{key}: resident is for an ImagePairDataset, not for a {type(dataset).__name__}")
        if not dataset.patch:
            raise UserError(f"{key}: resident needs a gt_size: crops of one size are cut on the device")
        if dataset.teacher is not None and dataset.teacher.crops:
            raise UserError(f"{key}: resident needs a teacher_cache of whole images, made without --crops")
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return {'plan': (4,) int64} of a sample that depends on ``index`` and ``rng`` only."""
        crop, flip = self.dataset.place(index, rng)
        assert crop is not None
        return {PLAN: np.array([index, crop.top, crop.left, flip_number(flip)])}


class Resident:
    """All images of a data set, and what a store holds of its teacher, on a device.

    Args:
        dataset: the data set; its images are read once, whole.
        device: where they are kept: 3 bytes a pixel of LR and HR (luma: 4; 16 bits: 12), and 2 bytes a stored value.
        channels_last: memory order of the LR images. What a student's output is compared with has the memory order that
            a pixel-shuffle gives.

    Raises:
        UserError: an image that cannot be read, or more than the device's memory holds.
    """

    def __init__(self, dataset: ImagePairDataset, device: torch.device, channels_last: bool = False) -> None:
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._patch = dataset.patch // dataset.scale
        self._whole = torch.tensor(255.0, device=device)  # a tensor: by a number, CUDA multiplies with its inverse
        pairs = _read_all(dataset)
        _check_memory(dataset, sum(lq.nbytes + gt.nbytes for lq, gt in pairs), device)
        self._lq = _Maps([lq for lq, _ in pairs], 1, device)
        self._gt = _Maps([gt for _, gt in pairs], dataset.scale, device)
        self._teacher = {} if dataset.teacher is None else _teacher_maps(dataset.teacher, dataset.entries, device)
        held = sum(maps.bytes for maps in (self._lq, self._gt, *self._teacher.values()))
        get_logger().info(f"{dataset.name}: {len(dataset):,} images on {device}, {held / 2**20:,.0f} MiB")

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Cut what a batch of plans names: lq (B, C, h, w) and gt (B, C, H, W), float32 in [0, 1], and ``teacher``."""
        plan = batch[PLAN]
        cut: dict[str, Any] = {"lq": self._image(self._lq, plan, self._layout), "gt": self._image(self._gt, plan)}
        if self._teacher:
            cut["teacher"] = {name: maps.cut(plan, self._patch).contiguous() for name, maps in self._teacher.items()}
        return cut

    def _image(self, maps: _Maps, plan: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
        values = maps.cut(plan, self._patch).contiguous(memory_format=layout)
        return values / self._whole if values.dtype == torch.uint8 else values


class _Maps:
    """Arrays (H, W, C) of many sizes, one after the other, to be cut by a plan.

    Args:
        arrays: by index; or by index and, where the orientations of a teacher differ, by the number of the flip.
        ratio: their size relative to the LR image.
    """

    def __init__(self, arrays: Sequence[np.ndarray], ratio: int, device: torch.device) -> None:
        self._ratio = ratio
        ends = np.cumsum([array.shape[0] * array.shape[1] for array in arrays])
        self._starts = torch.from_numpy(np.concatenate([[0], ends[:-1]])).to(device)
        self._widths = torch.tensor([array.shape[1] for array in arrays], device=device)
        flat = np.concatenate([array.reshape(-1, array.shape[2]) for array in arrays])
        self._pixels = torch.from_numpy(flat).to(device)
        parts = np.split(flat, ends[:-1]) if device.type == "cpu" else []
        self._views: list[np.ndarray] = [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=False)]
        self.bytes = flat.nbytes
        self._slots: Tensor | None = None  # (8,): array of each flip, where an index has several
        self._per_index = 1

    def cut(self, plan: Tensor, patch: int) -> Tensor:
        """Return (B, C, side, side), side = ratio * patch, flipped as ``apply_flip`` flips."""
        if self._views:
            return self._sliced(plan, self._ratio * patch)
        index, top, left, number = plan.unbind(1)
        if self._slots is not None:
            index = index * self._per_index + self._slots[number]
        side, width = self._ratio * patch, self._widths[index]
        horizontal, vertical, transposed = (number & bit != 0 for bit in (1, 2, 4))
        # a flip is a way to walk: where the first pixel lies, and how far it is to the next row and the next column
        first = self._starts[index] + (self._ratio * top + vertical * (side - 1)) * width
        first += self._ratio * left + horizontal * (side - 1)
        down, right = torch.where(vertical, -width, width), 1 - 2 * horizontal.long()
        down, right = torch.where(transposed, right, down), torch.where(transposed, down, right)
        step = torch.arange(side, device=plan.device)
        rows, columns = first[:, None] + down[:, None] * step, right[:, None] * step
        return self._pixels[rows[:, :, None] + columns[:, None, :]].permute(0, 3, 1, 2)

    def _sliced(self, plan: Tensor, side: int) -> Tensor:
        """Cut on the CPU, where a slice costs less than the arithmetic of a gather; bytes become float32 in [0, 1]."""
        slots = [0] * 8 if self._slots is None else self._slots.tolist()
        kind, channels = self._views[0].dtype, self._views[0].shape[2]
        is_bytes = kind == np.uint8
        cut = np.empty((len(plan), channels, side, side), np.float32 if is_bytes else kind)
        one = np.empty((channels, side, side), kind)  # stays in the processor's cache
        for part, (index, top, left, number) in zip(cut, plan.tolist(), strict=True):
            view = self._views[index * self._per_index + slots[number]]
            crop = Crop(self._ratio * top, self._ratio * left, side, side).of(view)
            flipped = apply_flip(crop.transpose(2, 0, 1), flip_of(number))
            if is_bytes:
                np.copyto(one, flipped)
                np.divide(one, np.float32(255), out=part)
            else:
                np.copyto(part, flipped)
        images = torch.from_numpy(cut)
        if channels > 1:
            return images
        # strides as a gather gives them: they choose the convolution's kernel, and so its rounding
        return images.view(-1, side, side, 1).permute(0, 3, 1, 2)

    def by_flip(self, slots: Sequence[int]) -> _Maps:
        """Say which of an index's arrays serves each of the eight flips."""
        self._slots = torch.tensor(slots, device=self._starts.device)
        self._per_index = max(slots) + 1
        return self


def _read_all(dataset: ImagePairDataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read (LR, HR) of every entry, side by side: uint8 (H, W, 3), or float32 of luma and where there are 16 bits."""

    def read(entry: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
        dataset.size(*entry)
        lq, gt = dataset.pairs.read([entry[0]], [entry[1]], None)
        return (lq[0], gt[0]) if dataset.color == "rgb" else (_values(lq[0], "y"), _values(gt[0], "y"))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pairs = list(pool.map(read, dataset.entries))
    if any(image.dtype == np.uint16 for pair in pairs for image in pair):
        pairs = [(_values(lq), _values(gt)) for lq, gt in pairs]
    return pairs


def _values(image: np.ndarray, color: str = "rgb") -> np.ndarray:
    return to_tensor([image], color=color)[0].permute(1, 2, 0).numpy()


def _teacher_maps(store: TeacherStore, entries: Sequence[tuple[str, str]], device: torch.device) -> dict[str, _Maps]:
    """Read every kept map of a store, all orientations of an image one after the other."""
    numbers = store.orientations
    slots = [numbers.index(n if n in numbers else 0) for n in range(8)]
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in store.names}
    for _, key in entries:
        for number in numbers:
            for name, maps in store.whole(key, number).items():
                arrays[name].append(maps.transpose(1, 2, 0))
    return {n: _Maps(a, int(store.names[n]["ratio"]), device).by_flip(slots) for n, a in arrays.items()}


def _check_memory(dataset: ImagePairDataset, images: int, device: torch.device) -> None:
    if device.type != "cuda":
        return
    teacher = 0
    if dataset.teacher is not None:
        values = sum(f["channels"] * f["ratio"] ** 2 for f in dataset.teacher.names.values())
        pixels = sum(height * width for height, width in dataset.teacher.images.values())
        teacher = 2 * values * pixels * len(dataset.teacher.orientations)
    torch.cuda.empty_cache()  # what PyTorch keeps for later counts as taken
    free = torch.cuda.mem_get_info(device)[0]
    if images + teacher > 0.9 * free:
        raise UserError(
            f"{dataset.name}: resident needs {(images + teacher) / 2**30:.1f} GiB on the GPU, where "
            f"{free / 2**30:.1f} GiB are free; take `resident` out, or store the teacher with --one-orientation"
        )
