"""What losses that run networks themselves are given: the two sides, callable on any LR images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdsr_arch.distill.taps import Batch, Side
from kdsr_arch.distill.teachers import CachedTeacher
from kdsr_arch.errors import UserError
from kdsr_arch.losses.base import Context, Edit

CLOCK = "iteration"
"""What the iteration is called among the numbers that a CUDA graph reads anew in each step."""


def make_context(student: Side, teacher: Side | CachedTeacher | None, batch: Batch, clock: Tensor) -> Context:
    """Join a batch, the networks and the iteration, a scalar on the batch's device."""

    def restore(images: Tensor) -> Tensor:
        return student.run({"lq": images, "gt": images}, ())[0].float()

    @torch.no_grad()
    def teach(images: Tensor) -> Tensor:
        assert isinstance(teacher, Side)
        return teacher.run({"lq": images, "gt": images}, ())[0].float()

    def resume(edits: Mapping[str, Edit]) -> Tensor:
        assert isinstance(teacher, Side)
        return teacher.resume(batch["lq"], edits).float()

    def resume_student(edits: Mapping[str, Edit]) -> Tensor:
        return student.resume(batch["lq"], edits).float()

    @torch.no_grad()
    def run(network: nn.Module, images: Tensor) -> Tensor:
        return student.call(images, network).float()

    scale, net = student.traits.scale, student.net
    motion = {name: batch[name] for name in ("flow", "visible") if name in batch}
    known = (batch["lq"], batch["gt"], clock, scale)
    return Context(*known, restore, teach, resume, resume_student, net, run, **motion)


def check_live(teacher: Side | CachedTeacher | None, term: str) -> None:
    """Raise a UserError that begins with `term` unless there is a teacher that runs on any LR images."""
    if not isinstance(teacher, Side) or teacher.traits.input != "lq":
        raise UserError(
            f"{term} runs the teacher on images of its own: give it a network_t that takes LR images, and take "
            "datasets.train.teacher_cache out"
        )
