"""What is restored and scored: one image, one clip, or one window, whatever data set it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from torch import Tensor

from kdsr_arch.errors import UserError

_NAME_KEYS = ("name", "folder", "lq_path", "gt_path", "key")


@dataclass(frozen=True)
class Item:
    """One unit of a test.

    Attributes:
        kind: 'image': lq (C, h, w); 'clip': lq (T, C, h, w), every frame wanted; 'window': lq (T, C, h, w), only its
            middle frame wanted.
        name: name of the image, or of the clip that the frames belong to.
        lq: RGB or Y, [0, 1].
        gt: (C, H, W), or (G, C, H, W) for a clip; None where there is no ground truth.
        frames: name of each frame of a clip; of the image; of a window's middle frame.
        truths: the frame numbers that the G ground truths belong to; all frames as a rule.
    """

    kind: str
    name: str
    lq: Tensor
    gt: Tensor | None
    frames: list[str]
    truths: list[int] = field(default_factory=list)

    def truth(self, index: int) -> Tensor | None:
        """Return the ground truth of frame ``index`` of a clip, or of the one wanted frame of an image or window."""
        if self.gt is None or self.kind != "clip":
            return self.gt
        return self.gt[self.truths.index(index)] if index in self.truths else None


def items_of(sample: Mapping[str, Any], mode: str) -> Iterator[Item]:
    """List the items of one sample of a data set (ours or BasicSR's), or of one collated batch of them.

    Args:
        sample: holds 'lq' and, unless there is none, 'gt'; names under name, folder, lq_path, gt_path or key.
        mode: the network's mode, which decides what a nameless (B, C, h, w) is.
    """
    if "lq" not in sample:
        raise UserError(f"a test sample has no 'lq', only {sorted(sample)}: is the data set one for testing?")
    lq = sample["lq"]
    if lq.dim() not in (3, 4, 5):
        raise UserError(f"a test sample's lq has shape {tuple(lq.shape)}: expected (C, h, w), or (T, C, h, w)")
    collated = lq.dim() == 5
    if lq.dim() == 4:  # a clip, or a batch of images
        names = [sample[key] for key in _NAME_KEYS if key in sample]
        listed = bool(names) and isinstance(names[0], (list, tuple)) and len(names[0]) == len(lq)
        collated = listed if names else mode == "image"
    if not collated:
        yield _single(sample)
        return
    for i in range(len(lq)):
        yield _single({key: _pick(value, i, len(lq)) for key, value in sample.items()})


def _pick(value: Any, index: int, size: int) -> Any:
    if isinstance(value, Tensor) and value.dim() and value.shape[0] == size:
        return value[index]
    if isinstance(value, (list, tuple)):
        if len(value) == size and not isinstance(value[0], (list, tuple)):
            return value[index]
        return [_pick(part, index, size) for part in value]  # lists of names come out of collation transposed
    return value


def _single(sample: Mapping[str, Any]) -> Item:
    lq, gt = sample["lq"], sample.get("gt")
    kind = "image" if lq.dim() == 3 else "window" if gt is not None and gt.dim() == 3 else "clip"
    key = next((key for key in _NAME_KEYS if key in sample), "")
    name = str(sample.get(key, "item"))
    name = PurePath(name).stem if key.endswith("_path") else name
    truths: list[int] = []
    if kind == "clip" and gt is not None:
        count, total = len(gt), len(lq)
        truths = [int(i) for i in sample.get("gt_index", range(count))]
        paired = count == total or "gt_index" in sample
        if len(truths) != count or (truths and not 0 <= max(truths) < total) or not paired:
            raise UserError(f"'{name}' has {total} LR frames and {count} ground-truth frames that do not pair")
    return Item(kind, name, lq, gt, _frame_names(sample, kind, name, len(lq)), truths)


def _frame_names(sample: Mapping[str, Any], kind: str, name: str, count: int) -> list[str]:
    if kind == "image":
        return [PurePath(name).name]
    if kind == "window":
        if "lq_path" in sample:
            return [PurePath(str(sample["lq_path"])).stem]
        return [f"{int(str(sample.get('idx', 0)).split('/')[0]):08d}"]
    names = [PurePath(str(frame)).stem for frame in sample.get("frames", [])]
    return names if len(names) == count else [f"{i:08d}" for i in range(count)]
