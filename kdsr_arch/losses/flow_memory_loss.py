"""Memory cells over features that the exact flow aligns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import Context
from kdsr_arch.losses.known_flow_loss import known_motion
from kdsr_arch.losses.temporal_memory_loss import TemporalMemoryLoss
from kdsr_arch.ops.warp import backward_warp
from kdsr_arch.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class FlowMemoryLoss(TemporalMemoryLoss):
    """TemporalMemoryLoss whose memory follows what moves: its states go along the exact flow from frame to frame.

    The published ConvLSTM compares what lies at one pixel in all frames, which is another part of the scene in each.
    Here the clip is read from its last frame to its first, since the flow that is known brings the next frame back, and
    both states are brought back along it before each step; they are 0 where nothing is visible, so that clips whose
    motion is not known are compared by their first frame alone. Arguments as there.
    """

    about = About(
        "STD's memory cells along the exact flow",
        "ours, not published",
        "mean (C_S - C_T)², C the first frame's memory cell of one ConvLSTM that runs back along the flow",
        "{at: f_sr, loss_weight: {balance: 0.1}}",
        ratio="as balanced",
    )

    context = True

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], context: Context) -> Tensor:  # type: ignore[override]
        """Return the term's value for one clip (B, N, C, H, W) of each side, in the order of time."""
        (ours,), (theirs,) = student, teacher
        flow, visible = known_motion(type(self).__name__, theirs, context)
        lead = theirs.shape[0], theirs.shape[1] - 1
        flows, seen = (part.unflatten(0, lead).flip(1) for part in (flow, visible))

        def carry(state: Tensor, step: int) -> Tensor:
            repeats = len(state) // len(flows)  # student and teacher may be one batch
            back, clear = (torch.cat([part[:, step - 1]] * repeats) for part in (flows, seen))
            return backward_warp(state, back) * clear

        return self.value(ours.flip(1), theirs.flip(1), carry)
