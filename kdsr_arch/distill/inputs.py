"""What a training forward and its terms are given, and what makes it other images than were meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdsr_arch.distill.taps import OUTPUT, Feature
from kdsr_arch.distill.terms import Term
from kdsr_arch.errors import UserError
from kdsr_arch.ops.color import matched_colors
from kdsr_arch.options.schema_train import DATA


def check_batch(batch: Any, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return a batch as a dict, of the pair ``(lq, gt)`` as well, its images in the dtype of the networks.

    Raises:
        UserError: it is neither, or holds no float images.
    """
    if isinstance(batch, Sequence) and len(batch) == 2:
        batch = {"lq": batch[0], "gt": batch[1]}
    if not isinstance(batch, Mapping) or not {"lq", "gt"} <= set(batch):
        raise UserError('a batch must be a pair (lq, gt) or a mapping {"lq": ..., "gt": ...} of tensors')
    for key in ("lq", "gt"):
        value = batch[key]
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() not in (4, 5):
            got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{key}: must be floats in [0, 1] of shape (B, C, H, W) or (B, T, C, H, W), not {got}")
        if not value.numel():
            raise UserError(f"{key}: holds nothing, its shape is {tuple(value.shape)}: leave empty batches out")
    given = {key: value.to(dtype) if key in ("lq", "gt") else value for key, value in batch.items()}
    # no gradient goes through what was made in torch.inference_mode, but through a copy of it
    return {key: v.clone() if isinstance(v, Tensor) and v.is_inference() else v for key, v in given.items()}


def check_restored(sr: Tensor, gt: Tensor) -> None:
    """Refuse ground truth of another size, number or color than the student's output: losses would stretch one of them.

    Args:
        sr: (B, C, H, W), or (B, N, C, H, W). Luma may learn from RGB, whose luma is taken.
        gt: likewise; of clips with N = 1 also (B, C, H, W).
    """
    (ours, theirs) = (images.flatten(0, 1) if images.dim() == 5 else images for images in (sr, gt))
    colors = ours.shape[1], theirs.shape[1]
    sizes_differ = ours.shape[-2:] != theirs.shape[-2:] or ours.shape[0] != theirs.shape[0]
    if sizes_differ or (colors[0] != colors[1] and colors != (1, 3)):
        raise unlike(sr, gt)


def unlike(sr: Tensor, gt: Tensor) -> UserError:
    """Say that a student's output and the ground truth cannot be compared."""
    return UserError(
        f"the student restores {tuple(sr.shape)}, but the ground truth is {tuple(gt.shape)}: check scale, gt_size, "
        "clip_length and the number of channels (color)"
    )


def first_of(value: Any) -> Any:
    """Return the first sample of what a batch holds under one key."""
    if isinstance(value, Mapping):
        return {name: first_of(maps) for name, maps in value.items()}
    return value[:1]


def pick(term: Term, ours: Mapping[str, Feature], theirs: Mapping[str, Feature]) -> tuple[list[Feature], list[Feature]]:
    """Return what a term taps of the student and of the teacher, images in the color that both have.

    Raises:
        UserError: outputs of two sizes: resized to each other, they would be no restorations of one image.
    """
    student, teacher = [ours[p] for p in term.student], [theirs[p] for p in term.teacher]
    for layer, (mine, other) in enumerate(zip(term.student, term.teacher, strict=False)):
        if not (other in DATA or (mine == OUTPUT and _is_image(teacher[layer]))):
            continue
        s, t = matched_colors(student[layer].tensors[0], teacher[layer].tensors[0])
        if other == OUTPUT and s.shape[-2:] != t.shape[-2:] and term.adapter_options == "auto":
            sizes = ["x".join(map(str, images.shape[-2:])) for images in (s, t)]
            raise UserError(
                f"{term.where}: the student restores {sizes[0]}, the teacher {sizes[1]}: give a teacher of the "
                "student's scale, or say how to resize by `adapter: {type: resize}`"
            )
        student[layer] = Feature(s, student[layer].sequences)
        teacher[layer] = Feature(t, teacher[layer].sequences)
    return student, teacher


def _is_image(feature: Feature) -> bool:
    """Tell whether a tap gives luma or RGB, as a network's output or that of one of several teachers does."""
    return isinstance(feature.value, Tensor) and feature.value.dim() == 4 and feature.value.shape[1] in (1, 3)
