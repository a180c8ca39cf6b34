"""What is restored and scored: one image, one clip, or one window, whatever data set it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from torch import Tensor

from kdsr_arch.data.basicsr_sets import read_item
from kdsr_arch.data.image_file import without_image_suffix
from kdsr_arch.errors import ProgramFault, UserError

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
        motion: of a clip whose motion is known, the flow (T - 1, 2, H, W) from each frame to the next, in HR pixels,
            and where it is visible (T - 1, 1, H, W).
    """

    kind: str
    name: str
    lq: Tensor
    gt: Tensor | None
    frames: list[str]
    truths: list[int] = field(default_factory=list)
    motion: tuple[Tensor, Tensor] | None = None

    def truth(self, index: int) -> Tensor | None:
        """Return the ground truth of frame ``index`` of a clip, or of the one wanted frame of an image or window."""
        if self.gt is None or self.kind != "clip":
            return self.gt
        return self.gt[self.truths.index(index)] if index in self.truths else None


def read_sample(samples: Any, index: int) -> dict[str, Any]:
    """Return a sample of a data set for testing, its LR images in float32; always the same one of an index.

    Raises:
        UserError: it is no mapping that holds them.
        ProgramFault: the data set would end the program.
    """
    try:
        sample = read_item(samples, index, [index])
    except (SystemExit, GeneratorExit) as error:
        raise ProgramFault.of(error, f"test sample {index} of {type(samples).__name__}: ") from error
    lq = sample.get("lq") if isinstance(sample, Mapping) else None
    if not isinstance(lq, Tensor) or not lq.is_floating_point() or lq.dim() not in (3, 4, 5):
        held = ", ".join(map(str, sample)) if isinstance(sample, Mapping) else type(sample).__name__
        got = f"{lq.dtype} {tuple(lq.shape)}" if isinstance(lq, Tensor) else held
        raise UserError(
            f"test sample {index} must hold 'lq', floats in [0, 1] of shape (C, h, w) or (T, C, h, w), but gives {got}"
        )
    return {**sample, "lq": lq.float()}


def items_of(sample: Mapping[str, Any], mode: str, roots: Sequence[str] = ()) -> Iterator[Item]:
    """List the items of one sample of a data set (ours or BasicSR's), or of one collated batch of them.

    Args:
        sample: holds 'lq' and, unless there is none, 'gt'; names under name, folder, lq_path, gt_path or key.
        mode: the network's mode, which decides what a nameless (B, C, h, w) is.
        roots: folders of the data, below which a file's path tells it from those of the same name in other folders.
    """
    lq = sample["lq"]
    collated = lq.dim() == 5
    if lq.dim() == 4:  # a clip, or a batch of images
        names = [sample[key] for key in _NAME_KEYS if key in sample]
        listed = bool(names) and isinstance(names[0], (list, tuple)) and len(names[0]) == len(lq)
        collated = listed if names else mode == "image"
    if not collated:
        yield _single(sample, roots)
        return
    for i in range(len(lq)):
        yield _single({key: _pick(value, i, len(lq)) for key, value in sample.items()}, roots)


def _pick(value: Any, index: int, size: int) -> Any:
    if isinstance(value, Tensor) and value.dim() and value.shape[0] == size:
        return value[index]
    if isinstance(value, (list, tuple)):
        if len(value) == size and not isinstance(value[0], (list, tuple)):
            return value[index]
        return [_pick(part, index, size) for part in value]  # lists of names come out of collation transposed
    return value


def _single(sample: Mapping[str, Any], roots: Sequence[str]) -> Item:
    lq, gt = sample["lq"], sample.get("gt")
    kind = "image" if lq.dim() == 3 else "window" if gt is not None and gt.dim() == 3 else "clip"
    key = next((key for key in _NAME_KEYS if key in sample), "")
    name = str(sample.get(key, "item"))
    name = _file_name(name, roots) if key.endswith("_path") else name
    truths: list[int] = []
    if kind == "clip" and gt is not None:
        count, total = len(gt), len(lq)
        truths = [int(i) for i in sample.get("gt_index", range(count))]
        paired = count == total or "gt_index" in sample
        if len(truths) != count or (truths and not 0 <= max(truths) < total) or not paired:
            raise UserError(f"'{name}' has {total} LR frames and {count} ground-truth frames that do not pair")
    motion = (sample["flow"], sample["visible"]) if kind == "clip" and "flow" in sample else None
    return Item(kind, name, lq, gt, _frame_names(sample, kind, name, len(lq), roots), truths, motion)


def _file_name(path: str, roots: Sequence[str]) -> str:
    """Name a file by its path below one of the roots; by its last part where it lies in none of them."""
    whole = PurePath(path)
    inner = next((whole.relative_to(root) for root in roots if whole.is_relative_to(root)), whole)
    return without_image_suffix(inner.name if inner.is_absolute() else inner.as_posix())


def _frame_names(sample: Mapping[str, Any], kind: str, name: str, count: int, roots: Sequence[str]) -> list[str]:
    if kind == "image":
        return [without_image_suffix(name)]
    if kind == "window":
        if "lq_path" in sample:
            return [_file_name(str(sample["lq_path"]), roots).removeprefix(f"{name}/")]
        return [f"{int(str(sample.get('idx', 0)).split('/')[0]):08d}"]
    names = [without_image_suffix(PurePath(str(frame)).name) for frame in sample.get("frames", [])]
    return names if len(names) == count else [f"{i:08d}" for i in range(count)]
