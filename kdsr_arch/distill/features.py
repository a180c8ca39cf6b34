"""Bringing what taps recorded into one form: all frames in the batch, and how many sequences they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdsr_arch.distill.taps import Value
from kdsr_arch.errors import UserError


@dataclass(frozen=True)
class Feature:
    """One tapped layer: ``value`` (sequences * length, ...), the frames of a sequence next to one another.

    Attributes:
        value: a Tensor, or a tuple of Tensors where the module returns several.
        sequences: number of sequences; for a window network the clips of the batch.
    """

    value: Value
    sequences: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The value as a tuple, whichever it is."""
        return self.value if isinstance(self.value, tuple) else (self.value,)

    def map(self, function: Callable[[Tensor], Tensor]) -> Feature:
        """The same feature with ``function`` applied to each tensor."""
        value = tuple(map(function, self.value)) if isinstance(self.value, tuple) else function(self.value)
        return Feature(value, self.sequences)

    def arranged(self, clip: bool) -> Value:
        """What a loss gets: frames (F, ...), or with ``clip`` sequences (B, N, ...)."""
        if not clip:
            return self.value
        return self.map(lambda t: t.unflatten(0, (self.sequences, -1))).value


def fold(fires: Sequence[Value], batch: int, recurrent: bool, where: str) -> Feature:
    """One Feature from what a module returned each time it fired.

    A recurrent network's module fires once for each frame with the ``batch`` clips, or once for all of them; other
    modules that fire k times (weights shared within a network) give k sequences per clip.

    Args:
        fires: one entry for each time, in order.
        batch: number of clips (or images) B in the network's input.
        recurrent: whether the network takes whole clips.
        where: names the tap in error messages.
    """
    if isinstance(fires[0], tuple):
        if len({len(f) for f in fires}) > 1:
            raise UserError(f"{where}: the module returns different numbers of tensors each time it fires; tap another")
        parts = [_fold(column, batch, recurrent, where) for column in zip(*fires, strict=True)]
        return Feature(tuple(part for part, _ in parts), parts[0][1])
    return Feature(*_fold(fires, batch, recurrent, where))  # type: ignore[arg-type]


def _fold(fires: Sequence[Tensor], batch: int, recurrent: bool, where: str) -> tuple[Tensor, int]:
    if recurrent and fires[0].dim() == 5:  # (B, T, C, H, W)
        fires = [f.flatten(0, 1) for f in fires]
    if len({f.shape for f in fires}) > 1:
        shapes = sorted({str(tuple(f.shape)) for f in fires})
        raise UserError(
            f"{where}: the module fires {len(fires)} times with different shapes ({', '.join(shapes)}), "
            "which cannot be stacked; tap another"
        )
    count = fires[0].shape[0]
    if count % batch:
        raise UserError(
            f"{where}: records a batch of {count}, which is no multiple of the {batch} clip(s) of the "
            "input; tap a module that keeps the batch in front"
        )
    if len(fires) == 1:
        return fires[0], batch
    if recurrent and count == batch:
        return torch.stack(list(fires), dim=1).flatten(0, 1), batch
    stacked = torch.stack([f.unflatten(0, (batch, -1)) for f in fires], dim=1)  # (B, fires, N, ...)
    return stacked.flatten(0, 2), batch * len(fires)


def same_frames(student: Feature, teacher: Feature, where: str) -> tuple[Feature, Feature]:
    """Both features with as many frames: of the longer sequences the middle is taken.

    A recurrent network may see the frames that fill another's windows, and so record more frames at both ends.

    Raises:
        UserError: other counts of sequences, or an odd difference of lengths.
    """
    ours, theirs = (f.tensors[0].shape[0] // f.sequences for f in (student, teacher))
    if student.sequences != teacher.sequences or (ours - theirs) % 2:
        raise UserError(
            f"{where}: the student's tap gives {student.sequences} sequence(s) of {ours}, the teacher's "
            f"{teacher.sequences} of {theirs}: tap modules that fire equally often"
        )
    length = min(ours, theirs)
    return _middle(student, ours, length), _middle(teacher, theirs, length)


def _middle(feature: Feature, length: int, wanted: int) -> Feature:
    if length == wanted:
        return feature
    first = (length - wanted) // 2

    def cut(t: Tensor) -> Tensor:
        return t.unflatten(0, (-1, length))[:, first : first + wanted].flatten(0, 1)

    return feature.map(cut)
