"""The base class of every distillation loss, and what the losses share: checks of taps, matching of sizes, norms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from kdsr_arch.errors import UserError
from kdsr_arch.losses.about import About

Features = Any
"""What a tap recorded: a Tensor, or a tuple of Tensors; a list of those where ``multi`` is True."""

Edit = Callable[[Tensor], Tensor]
"""Makes, of what a module returned, what is put in its place, of the same shape."""


@dataclass(frozen=True)
class Context:
    """What a loss gets beside the taps if it asks for it (``context = True``): the batch, and both networks to run.

    Attributes:
        lq: LR images (B, C, h, w), or clips, in [0, 1].
        gt: the ground truth.
        iteration: counted from 1; a float32 scalar on the device, so that a CUDA graph reads it anew in each step. 0
            in the dry run.
        scale: of both networks.
        student: runs the student on other LR images, as it is trained: float32, in the student's color.
        teacher: runs the live teacher likewise, without gradients; fails where there is none (see ``live_teacher``).
        resume: runs the live teacher on ``lq`` with what its modules at some paths return edited; gradients reach what
            it is replaced by, through the layers behind it.
        resume_student: runs the student likewise.
        network: the student itself.
        run: runs another network in the student's place, a copy of it say, without gradients.
        taps, student_taps: the module paths that the term taps in the teacher and in the student.
        flow: of clips whose motion is known, (B, N - 1, 2, H, W): what is at p in a ground-truth frame is at p + flow
            in the next, in HR pixels; None of others.
        visible: with it, (B, N - 1, 1, H, W): 1 where that is so, 0 where p is hidden there or nothing is known.
    """

    lq: Tensor
    gt: Tensor
    iteration: Tensor
    scale: int
    student: Callable[[Tensor], Tensor]
    teacher: Callable[[Tensor], Tensor]
    resume: Callable[[Mapping[str, Edit]], Tensor]
    resume_student: Callable[[Mapping[str, Edit]], Tensor]
    network: nn.Module
    run: Callable[[nn.Module, Tensor], Tensor]
    taps: tuple[str, ...] = ()
    student_taps: tuple[str, ...] = ()
    flow: Tensor | None = None
    visible: Tensor | None = None


class DistillLoss(nn.Module):
    """A loss between what the student's and the teacher's taps recorded.

    Sub-classes implement ``forward(student, teacher) -> scalar Tensor`` (``forward(student)`` where
    ``sides = 'student'``). Both sides are float32 and outside autocast (see ``native_dtype``); the teacher's is
    detached. The reduction is the mean over every element unless the class says otherwise. The weight of the
    term (``loss_weight``) is not the loss's business.

    Attributes:
        align_channels: a train-only 1x1 convolution is put on the student's side when channels differ.
        align_size: the student's side is resized when heights or widths differ.
        clip: True: gets sequences (B, N, C, H, W); False: gets frames (B*N, C, H, W).
        multi: True: gets the lists of all tapped layers in one call; False: is called once for each pair
            of layers and the results are summed with the term's ``layer_weights``.
        sides: what is tapped: 'both', 'student', 'teacher' or 'none'.
        context: True: is called once with a :class:`Context` behind the lists of the sides that are tapped. What it
            draws at random or lets depend on the iteration it makes on the device, so that a CUDA graph can record it.
        live_teacher: True: runs the teacher on images that no store can know.
        native_dtype: True: gets what the networks made (bfloat16, float16), computes in float32 itself, and saves
            a float32 copy of HR-resolution features.
        reaches_student: False while the loss trains its own parts only (it then has no gradient on the student,
            and the task neither weighs nor measures it).
        least_samples: how many samples (frames, or clips) it must be given to have a gradient; the dry run gives one.
        pretrain_iters: how many iterations a loss does so that begins with it; 0: none.
        about: what docs/methods.md says of the method; see :class:`~kdsr_arch.losses.about.About`.
    """

    align_channels: bool = True
    align_size: bool = True
    clip: bool = False
    multi: bool = False
    sides: str = "both"
    context: bool = False
    live_teacher: bool = False
    native_dtype: bool = False
    reaches_student: bool = True
    least_samples: int = 1
    pretrain_iters: int = 0
    about: ClassVar[About | None] = None

    def setup(self, student_shapes: Sequence[Any], teacher_shapes: Sequence[Any]) -> None:
        """Build what depends on shapes (estimators, a ConvLSTM): called once, before the optimizer exists.

        Args:
            student_shapes: one entry for each tapped layer, after adapters: a ``torch.Size`` of what ``forward`` will
                get, or a tuple of them where the tap records a tuple.
            teacher_shapes: likewise; empty for a term of the student alone.
        """

    def check_samples(self, count: int) -> None:
        """Refuse, with a UserError, fewer samples than `least_samples`."""
        if count < self.least_samples:
            raise UserError(
                f"{type(self).__name__} compares the samples of a batch and needs {self.least_samples} or more, got "
                f"{count}: take a larger batch, and drop a smaller last one"
            )

    def begin(self, context: Context) -> None:
        """Build what depends on the networks: called once after ``setup``, where ``context`` is True."""

    def forward(self, student: Features, teacher: Features = None) -> Tensor:
        """Return the unweighted loss, a scalar, of what the taps recorded; every term defines it.

        Args:
            student: frames (B*N, C, H, W), or clips (B, N, C, H, W) with ``clip``; with ``multi`` a list, one a layer.
            teacher: likewise; None for a term of the student alone.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def after_step(self, value: Tensor, iteration: int) -> None:
        """Note the term's unweighted value after each optimizer step; lasting state must be in buffers.

        Args:
            value: a scalar on its device, the mean over processes; to read it makes a GPU wait.
            iteration: counted from 1.
        """


def rms_difference(a: Tensor, b: Tensor) -> Tensor:
    """Return the root mean square difference of each sample (B, ...), averaged over the batch.

    The L2 norm that is not squared, over the root of the number of elements: its gradient does not vanish with the
    difference. Equal samples get none.
    """
    squares = (a - b).square().flatten(1).mean(1)
    zero = squares == 0
    return squares.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0).mean()


CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss}
NORMS = {**CRITERIA, "norm": rms_difference}
"""Distances of the terms whose paper writes ||.|| or ||.||^2."""


def require_map(owner: str, x: Any) -> Tensor:
    """Return a feature map (N, C, H, W), else a UserError that says what the tap recorded instead."""
    if not isinstance(x, Tensor):
        raise UserError(f"{owner} needs one feature map from each tap, but a tap recorded {type(x).__name__}")
    if x.dim() != 4:
        raise UserError(f"{owner} needs maps (N, C, H, W), but a tap gave shape {tuple(x.shape)}: tap another layer")
    return x


def as_maps(owner: str, x: Any) -> list[Tensor]:
    """Return the feature maps of one side of a term that sees all its layers at once."""
    return [require_map(owner, m) for m in (x if isinstance(x, (list, tuple)) else [x])]


def pool_larger(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps at the smaller height and width, by adaptive average pooling of whichever is larger there."""
    if a.shape[-2:] == b.shape[-2:]:
        return a, b
    size = (min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1]))
    return F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(b, size)


def unit(x: Tensor, dim: int | tuple[int, ...], eps: float = 0.0) -> Tensor:
    """Return ``x / (|x|_2 + eps)`` along ``dim``; exactly zero vectors stay zero and get a zero gradient.

    The plain formula's gradient there is NaN (the root at 0) or 1/eps; neither is of use to an optimizer.
    """
    squares = x.square().sum(dim, keepdim=True)  # ten times faster than vector_norm over an outer dimension
    zero = squares == 0
    return (x / (squares.masked_fill(zero, 1.0).sqrt() + eps)).masked_fill(zero, 0.0)
