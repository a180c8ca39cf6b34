"""Terms along the exact flow of clips whose motion is known: what changes there is no motion but an error."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import CRITERIA, Context, DistillLoss
from kdsr_arch.ops.warp import backward_warp
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import LOSS_REGISTRY


def known_motion(owner: str, clip: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Return the flow between the frames of a clip at its own resolution, and where it holds.

    Args:
        owner: of the message.
        clip: images or feature maps (B, N, C, h, w); the ground truth is a whole number of times as large.

    Returns:
        (B * (N - 1), 2, h, w) in pixels of the clip, means over the pixels that one stands for; and (B * (N - 1), 1, h,
        w): 1 where all of those are visible.

    Raises:
        UserError: nothing is known, or the sizes do not divide.
    """
    if context.flow is None or context.visible is None:
        raise UserError(
            f"{owner} needs clips of two frames or more whose motion is known: a StillClipDataset with clip_length 2 "
            "or more, alone or in a MixDataset; or a ClipDataset with flow: true of a store of such clips"
        )
    vectors, visible = context.flow.flatten(0, 1), context.visible.flatten(0, 1)
    if clip.dim() != 5 or clip.shape[1] != context.flow.shape[1] + 1:
        raise UserError(f"{owner} needs clips (B, {context.flow.shape[1] + 1}, C, H, W), got {tuple(clip.shape)}")
    ratio = vectors.shape[-1] // clip.shape[-1]
    if ratio < 1 or vectors.shape[-2:] != (clip.shape[-2] * ratio, clip.shape[-1] * ratio):
        shapes = f"{tuple(clip.shape[-2:])} and {tuple(vectors.shape[-2:])}"
        raise UserError(f"{owner}: the flow has whole multiples of the maps' size, got {shapes}: tap another layer")
    if ratio == 1:
        return vectors, visible
    return F.avg_pool2d(vectors, ratio) / ratio, -F.max_pool2d(-visible, ratio)


def changes_along(clip: Tensor, flow: Tensor) -> Tensor:
    """Return each next frame, brought back along the flow, minus its frame.

    Args:
        clip: (B, N, C, h, w).
        flow: (B * (N - 1), 2, h, w).
    """
    return backward_warp(clip[:, 1:].flatten(0, 1), flow) - clip[:, :-1].flatten(0, 1)


class KnownFlowLoss(DistillLoss):
    """What the terms along the exact flow share.

    Args:
        criterion: 'l1' or 'l2', of the changes; the mean over all that is visible. 0 where nothing is.
    """

    clip = True
    context = True

    def __init__(self, criterion: str = "l1") -> None:
        super().__init__()
        self.criterion = CRITERIA[one_of(type(self).__name__, "criterion", criterion, CRITERIA)]

    def value(self, clips: Sequence[Tensor], context: Context) -> Tensor:
        """Return the size of the changes of clips, summed over layers."""
        total = context.lq.new_zeros(())
        for clip in clips:
            flow, visible = known_motion(type(self).__name__, clip, context)
            changes = changes_along(clip, flow)
            seen = changes * visible
            share = distributed.averaged(visible.mean()).clamp(min=1 / visible.numel())
            total = total + self.criterion(seen, changes.new_zeros(()).expand_as(seen)) / share
        return total


@LOSS_REGISTRY.register()
class FlowDifferenceLoss(KnownFlowLoss):
    """The student changes along the exact flow as the teacher does.

    Mean over visible pixels of |W(S_t+1) - S_t - (W(T_t+1) - T_t)|, where W brings a frame back along the flow. As W is
    linear, this is the same as the error S - T of one frame, brought along, against that of the next: an error that
    stays with its object costs nothing, one that flickers does. With ``teacher: gt`` it is the error itself.
    """

    about = About(
        "changes along the exact flow, as the teacher's",
        "ours, not published",
        "mean |(W(S_t+1) - S_t) - (W(T_t+1) - T_t)| where visible, W along the flow",
        "{loss_weight: {balance: 1.0}}",
        ratio="0.7 to 1.5 as balanced, with criterion l2 (std_flow)",
        options="train_flow.yml",
    )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], context: Context) -> Tensor:  # type: ignore[override]
        """Return the term's value for clips (B, N, C, H, W) of both sides, one a layer."""
        return self.value([ours - theirs for ours, theirs in zip(student, teacher, strict=True)], context)


@LOSS_REGISTRY.register()
class FlowConsistencyLoss(KnownFlowLoss):
    """The student does not change along the exact flow: mean over visible pixels of |W(S_t+1) - S_t|.

    Source: the short-term temporal loss of Lai et al., "Learning Blind Video Temporal Consistency" (ECCV 2018), there
    along an estimated flow. A term of the student alone; blur has a small value, too.
    """

    about = About(
        "changes along the exact flow, of the student alone",
        "Lai et al., ECCV 2018",
        "mean |W(S_t+1) - S_t| where visible, W along the flow",
        "{loss_weight: {balance: 0.3}}",
        ratio="as balanced",
    )

    sides = "student"

    def forward(self, student: Sequence[Tensor], context: Context) -> Tensor:  # type: ignore[override]
        """Return the term's value for clips (B, N, C, H, W), one a layer."""
        return self.value(student, context)
