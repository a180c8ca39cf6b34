"""What is trained: a student taught by a teacher, or alone; its optimizer, schedule and average, as one state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from kdsr_arch.data.loader import to_device
from kdsr_arch.device import pick_device, use_channels_last
from kdsr_arch.distill.taps import Batch
from kdsr_arch.distill.task import DistillTask
from kdsr_arch.distill.teachers import CachedTeacher, build_teacher, stored_teacher
from kdsr_arch.errors import UserError
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.open import load_pretrained, misfits
from kdsr_arch.optim.update import EMA, Schedule, build_optimizer, load_optimizer, optimizer_state
from kdsr_arch.options.schema import Options, TeacherOptions
from kdsr_arch.options.schema_train import TrainOptions
from kdsr_arch.registry import MODEL_REGISTRY, build
from kdsr_arch.train.checkpoint import PassingBuffers, random_states_kept


class DistillModel:
    """Networks, task, optimizer, schedule and average of one training.

    Works without `network_t` as well: then the student is trained alone, by the same code.

    Args:
        opt: validated options.
        sample: a batch of one, on which the networks are tried.

    Raises:
        UserError: a network cannot be built, its pretrained weights not be loaded, or a tap or a shape does not fit.

    Attributes:
        distills: tells this class and those that derive from it from BasicSR's models.
    """

    distills = True

    def __init__(self, opt: Options, sample: Batch) -> None:
        assert opt.train is not None and opt.scale is not None
        student = build("network", opt.network_g, "network_g")
        load_pretrained(student, opt.path, "g")
        with random_states_kept():  # adapters and loss networks start alike with any teacher, live or stored
            teacher = stored_teacher(opt) or build_teacher(opt)
        self._join(student, teacher, opt.train, sample, opt.scale, pick_device(opt.num_gpu), opt.teacher)

    @classmethod
    def of(
        cls, student: nn.Module, teacher: nn.Module | None, options: TrainOptions, sample: Batch, scale: int,
        device: torch.device,
    ) -> DistillModel:  # fmt: skip
        """Make one of networks that are there already; see the class."""
        model = cls.__new__(cls)
        model._join(student, teacher, options, sample, scale, device)
        return model

    def _join(
        self, student: nn.Module, teacher: nn.Module | CachedTeacher | None, options: TrainOptions, sample: Batch,
        scale: int, device: torch.device, teacher_options: TeacherOptions | None = None,
    ) -> None:  # fmt: skip
        self.student, self.device = student.to(device), device
        if options.channels_last:
            use_channels_last(self.student)
        sample = to_device(sample, self.device, options.channels_last)
        self.task = DistillTask(
            self.student, teacher, options, sample, scale=scale, teacher_options=teacher_options
        ).train()
        train_only = self.task.train_only_parameters()
        self.parameters = [*self.student.parameters(), *train_only]
        groups = [{"params": list(self.student.parameters())}, {"params": train_only}]
        self.optimizer = build_optimizer([group for group in groups if group["params"]], options.optim_g)
        self.schedule = Schedule(self.optimizer, options.scheduler, options.warmup_iter)
        self.schedule.try_out(options.total_iter)
        self.ema = EMA(self.student, options.ema_decay) if options.ema_decay else None
        parts: dict[str, nn.Module] = {"net_g": self.student, "terms": self.task.terms}
        parts |= {"net_g_ema": self.ema.net} if self.ema else {}
        parts |= {"pixel": self.task.pixel} if self.task.pixel is not None else {}
        self._passing = PassingBuffers(parts, ["pixel"])
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=options.amp == "fp16")

    def try_stage(self, sample: Batch, last: int) -> None:
        """Compute the losses of the stage that ends at an iteration, without a trace; see `DistillTask.forward`."""
        self.task.try_stage(to_device(sample, self.device), last)

    def describe(self) -> str:
        """List the networks with their sizes, then the task's table of terms."""
        lines = [f"student {type(self.student).__name__}: {count_parameters(self.student):,} parameters"]
        if train_only := sum(p.numel() for p in self.task.train_only_parameters()):
            lines.append(f"train-only (adapters, loss networks): {train_only:,} parameters")
        return "\n".join([*lines, self.task.table()])

    def teacher_names(self) -> set[str]:
        """Return what the batches have to bring of a stored teacher."""
        return self.task.teacher_names()

    def modules(self) -> list[nn.Module]:
        """Return what is equal on all processes: the task (student, adapters, loss networks), the averaged student."""
        return [self.task, *([self.ema.net] if self.ema else [])]

    def rates(self) -> list[float]:
        """Return the learning rate of each parameter group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def inference_network(self) -> nn.Module:
        """Return the averaged student where there is one, else the student."""
        return self.ema.net if self.ema else self.student

    def network_files(self) -> dict[str, dict[str, Any]]:
        """Return the content of each `NAME_N.pth`: the pure student, as BasicSR writes it."""
        content = {"params": cpu_copy(self.student.state_dict())}
        if self.ema:
            content["params_ema"] = cpu_copy(self.ema.net.state_dict())
        return {"net_g": content}

    def state(self) -> dict[str, Any]:
        """Copy everything but the teacher to the CPU."""
        state = {
            "net_g": self.student.state_dict(),
            "net_g_ema": self.ema.net.state_dict() if self.ema else None,
            "train_only": self.task.train_only_state(),
            "optimizer": optimizer_state(self.optimizer, {"task": self.task}),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "buffers": self._passing.state(),
        }
        return cpu_copy(state)

    @property
    def teacher(self) -> nn.Module | None:
        """The live teacher, if there is one."""
        return self.task.teacher

    def misfits(self, state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield in what a `state` is one of other networks or terms: the option's key, and a sentence."""
        parts = {"network_g": (self.student, "net_g"), "train.distill_opt": (self.task.terms, "train_only")}
        for key, (net, part) in parts.items():
            saved = state.get(part)
            for fault in misfits(net, saved if isinstance(saved, Mapping) else {}):
                yield key, f"the state {fault}"

    def load_state(self, state: Mapping[str, Any], schedule_anew: int = 0) -> None:
        """Resume from `state`.

        Args:
            schedule_anew: the iteration that the present schedule goes to; 0: it goes on from where the saved one was.

        Raises:
            UserError: it belongs to other networks or terms.
        """
        try:
            self.student.load_state_dict(state["net_g"])
            if self.ema:
                self.ema.net.load_state_dict(state["net_g_ema"] or state["net_g"])
            self.task.load_train_only_state(state["train_only"])
            self._passing.load_state(state.get("buffers", {}))  # earlier versions have none
            load_optimizer(self.optimizer, state["optimizer"], {"task": self.task})
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"the training state belongs to other networks or terms: {reason}") from None
        if schedule_anew:
            self.schedule.advance_to(schedule_anew)
        else:
            self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # it is empty where the training was none of float16
            self.scaler.load_state_dict(state["scaler"])


@MODEL_REGISTRY.register()
class ImageDistillModel(DistillModel):
    """Image networks: batches lq (B, C, h, w), gt (B, C, H, W)."""


@MODEL_REGISTRY.register()
class VideoDistillModel(DistillModel):
    """Video networks: batches lq (B, T, C, h, w), gt (B, N, C, H, W)."""


def cpu_copy(state: Any) -> Any:
    """Copy nested containers, every tensor detached and on the CPU, so that later steps do not change them."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {k: cpu_copy(v) for k, v in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(cpu_copy(v) for v in state)
    return state
