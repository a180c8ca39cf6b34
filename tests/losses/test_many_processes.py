"""Losses that scale by a statistic of the batch find that of one process, however many share the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kdsr_arch.losses.base import Context
from kdsr_arch.losses.classic_loss import FitNetLoss
from kdsr_arch.losses.known_flow_loss import FlowConsistencyLoss
from kdsr_arch.losses.spatial_attention_loss import SpatialAttentionLoss
from kdsr_arch.losses.temporal_memory_loss import TemporalMemoryLoss
from kdsr_arch.parallel import distributed
from tests.helpers.processes import in_two_processes


def _along_flow(student: Tensor, teacher: Tensor) -> Tensor:
    """Clips of which the last samples' motion is unknown."""
    visible = (teacher[:, 1:, :1].mean((2, 3, 4), keepdim=True) < 0.6).float().expand(-1, -1, 1, 6, 6)
    flow = torch.full((len(teacher), 2, 2, 6, 6), 0.5)
    unused = torch.zeros(1)
    context = Context(unused, unused, unused, 1, *[None] * 6, flow=flow, visible=visible)  # type: ignore[arg-type]
    return FlowConsistencyLoss()([student], context)


def _memory(student: Tensor, teacher: Tensor) -> Tensor:
    torch.manual_seed(1)
    loss = TemporalMemoryLoss(normalize="teacher_rms")
    loss.setup([student.shape], [teacher.shape])
    return loss(student, teacher)


LOSSES: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda s, t: FitNetLoss(normalize="teacher_rms")(s.flatten(0, 1), t.flatten(0, 1)),
    lambda s, t: SpatialAttentionLoss(normalize="teacher_mean")(s.flatten(0, 1), t.flatten(0, 1)),
    _memory,
    _along_flow,
]


def test_two_processes_scale_by_what_both_see(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 2, 3, 4, 6, 6)
    teacher[1] *= 3
    whole = [loss(student, teacher) for loss in LOSSES]

    def half() -> None:
        distributed.start("pytorch")
        mine = slice(distributed.rank(), distributed.rank() + 1)
        values = [distributed.averaged(loss(student[mine], teacher[mine]).detach()) for loss in LOSSES]
        torch.testing.assert_close(torch.stack(values), torch.stack(whole).detach())
        distributed.stop()

    in_two_processes(half, tmp_path)
