"""A student taught by a teacher, or alone: the training step around a distillation task."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.device import pick_device
from kdsr_arch.distill.task import DistillTask
from kdsr_arch.distill.teachers import build_teacher, stored_teacher
from kdsr_arch.errors import UserError
from kdsr_arch.infer.open import load_pretrained
from kdsr_arch.ops.flops import count_parameters
from kdsr_arch.optim.optimizers import build_optimizer
from kdsr_arch.optim.update import EMA, Schedule, clip_gradients, gradient_norm
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import MODEL_REGISTRY, build
from kdsr_arch.train.meter import NonFiniteError, Tally, stop_if_nonfinite
from kdsr_arch.train.trainable import cpu_copy, use_channels_last

log = logging.getLogger("kdsr")

# a GPU is asked once in so many steps whether all losses were finite, so that it never waits in between
CHECK_PERIOD_CUDA = 16
# steps in a row that the gradient scaler may leave out: its scale is then 2^40 times smaller than it was
SCALER_PATIENCE = 40


class DistillModel:
    """Builds the networks and the task, and runs its training step.

    Works without `network_t` as well: then the student is trained alone, by the same code.

    Args:
        opt: validated options.

    Raises:
        UserError: a network cannot be built, or its pretrained weights not be loaded.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt, self.train_opt = opt, opt["train"]
        self.device = pick_device(opt.get("num_gpu", 0))
        student = build("network", opt["network_g"], "network_g")
        load_pretrained(student, opt["path"], "g")
        teacher = stored_teacher(opt) or build_teacher(opt)
        self.task = DistillTask(
            student, teacher, self.train_opt, scale=opt["scale"], teacher_opt=opt.get("teacher")
        ).to(self.device)
        self.student = student
        self.layout = torch.channels_last if self.train_opt.get("channels_last") else torch.preserve_format
        if self.layout == torch.channels_last:
            use_channels_last(student)
        self.parts = max(1, self.train_opt.get("accumulation") or 1)
        self.ratio_freq = self.train_opt.get("ratio_freq") or 0
        self.tally = Tally(self.device)
        self.iteration = self.skipped = self.skipped_in_a_row = 0
        self.ratios: dict[str, float] = {}

    # ------------------------------------------------------------------------------------------ before training

    def prepare(self, data: Mapping[str, Any]) -> None:
        """Dry run on one sample of a batch, then whatever needs the adapters that it built: optimizer, schedule,
        average.

        Raises:
            UserError: a tap or a shape that does not fit (see `DistillTask.dry_run`).
        """
        self.feed_data(data)
        self.task.dry_run(self.lq[:1], self.gt[:1])
        self.task.to(self.device)
        train_only = self.task.train_only_parameters()
        self.parameters = [*self.student.parameters(), *train_only]
        groups = [{"params": list(self.student.parameters())}, {"params": train_only}]
        self.optimizer = build_optimizer([g for g in groups if g["params"]], self.train_opt["optim_g"])
        warmup, total = self.train_opt.get("warmup_iter") or -1, self.train_opt["total_iter"]
        for sentence in self.task.idle_terms(total):
            log.warning(sentence)
        self.schedule = Schedule(self.optimizer, self.train_opt.get("scheduler"), warmup, total)
        decay = self.train_opt.get("ema_decay") or 0
        self.ema = EMA(self.student, decay) if decay > 0 else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.train_opt.get("amp") == "fp16")
        self.task.train()

    def describe(self) -> str:
        """Networks with their sizes, then the task's table of terms."""
        lines = [f"student {type(self.student).__name__}: {count_parameters(self.student):,} parameters"]
        train_only = sum(p.numel() for p in self.task.train_only_parameters())
        if train_only:
            lines.append(f"train-only (adapters, loss networks): {train_only:,} parameters")
        return "\n".join([*lines, self.task.table()])

    def modules(self) -> list[nn.Module]:
        """The task (student, adapters, loss networks) and the averaged student."""
        return [self.task, *([self.ema.net] if self.ema else [])]

    # ------------------------------------------------------------------------------------------------- one step

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Put `lq` and `gt` on the device, and what a stored teacher made of them."""
        self.lq, self.gt = self._to_device(data["lq"]), self._to_device(data["gt"])
        self.taught = {name: self._to_device(maps) for name, maps in (data.get("teacher") or {}).items()}
        self.task.feed_teacher(self.taught)

    def _to_device(self, images: Tensor) -> Tensor:
        layout = self.layout if images.dim() == 4 else torch.preserve_format
        return images.to(self.device, non_blocking=True, memory_format=layout)

    def update_learning_rate(self, current_iter: int) -> None:
        """Set the rates of this iteration."""
        self.schedule.advance(current_iter)

    def optimize_parameters(self, current_iter: int) -> None:
        """Forward, backward, average over processes, clip, step, average over time.

        Raises:
            NonFiniteError: a term or the gradient is NaN or infinite; on the CPU before any weight was touched.
        """
        self.iteration = current_iter
        self.task.set_stage(current_iter)
        self.optimizer.zero_grad(set_to_none=True)
        for index, (lq, gt) in enumerate(self._micro_batches()):
            output = self.task(lq, gt, current_iter)
            self.tally.add(output.losses, current_iter)
            if index == 0 and self._measure_due(current_iter):
                self.ratios = self.task.measure(output, current_iter)
            total = torch.stack(list(output.losses.values())).sum() / self.parts
            self.scaler.scale(total).backward()
        distributed.average_gradients(self.parameters)
        if not self._step(current_iter):
            return
        if self.ema:
            self.ema.update(self.student)
        self.task.after_step(output, current_iter)

    def _micro_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batch in `accumulation` equal parts, which bounds the memory and leaves the gradient what it was."""
        if len(self.lq) % self.parts:
            raise UserError(f"train.accumulation {self.parts} does not divide the batch of {len(self.lq)}")
        for index, (lq, gt) in enumerate(zip(self.lq.chunk(self.parts), self.gt.chunk(self.parts), strict=True)):
            self.task.feed_teacher({name: maps.chunk(self.parts)[index] for name, maps in self.taught.items()})
            yield lq, gt

    def _measure_due(self, iteration: int) -> bool:
        return self.ratio_freq > 0 and (iteration == 1 or iteration % self.ratio_freq == 0)

    def _step(self, iteration: int) -> bool:
        """Clip and step; returns False where the gradient scaler left the step out."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = gradient_norm(gradients)
        if not self.scaler.is_enabled():  # it meets infinite gradients itself
            self.tally.add({"grad_norm": norm}, iteration)
        if self.device.type == "cpu" or iteration % CHECK_PERIOD_CUDA == 0:
            self.check_finite()
        clip_gradients(gradients, norm, self.train_opt.get("grad_clip"))
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        left_out = self.scaler.get_scale() < before
        self._count_left_out(left_out, before)
        return not left_out

    def _count_left_out(self, left_out: bool, scale: float) -> None:
        self.skipped += left_out
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if left_out else 0
        if self.skipped_in_a_row >= SCALER_PATIENCE:
            raise NonFiniteError(
                f"the gradient scaler has left out {SCALER_PATIENCE} steps in a row, down to a scale of {scale:.3g}: "
                "the gradient is infinite or NaN at any scale; use train.amp bf16 or no"
            )

    # ------------------------------------------------------------------------------------------------- figures

    def check_finite(self) -> None:
        """Raise NonFiniteError where a loss since the last log was not finite; all processes must call it together."""
        first, names = self.tally.first_bad()
        batch = {"lq": self.lq, "gt": self.gt, **{f"teacher.{name}": maps for name, maps in self.taught.items()}}
        stop_if_nonfinite(first, names, batch if first == self.iteration else {})

    def get_current_log(self) -> dict[str, float]:
        """Means since the last call, averaged over processes: each loss, the gradient's norm; then the latest gradient
        ratios.
        """
        log = self.tally.means()
        log |= {f"ratio/{name}": value for name, value in self.ratios.items()}
        return log | ({"skipped_steps": float(self.skipped)} if self.scaler.is_enabled() else {})

    def get_current_learning_rate(self) -> list[float]:
        """One rate for each parameter group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    # --------------------------------------------------------------------------------------------- saving, going on

    def share_figures(self) -> None:
        """Make the means so far those of all processes."""
        self.tally.share()

    def training_state(self) -> dict[str, Any]:
        """Everything but the teacher, copied to the CPU."""
        return cpu_copy(
            {
                "net_g": self.student.state_dict(),
                "net_g_ema": self.ema.net.state_dict() if self.ema else None,
                "train_only": self.task.train_only_state(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "tally": self.tally.state(),
                "ratios": dict(self.ratios),
                "skipped": (self.skipped, self.skipped_in_a_row),
            }
        )

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `training_state`; to be called after `prepare`.

        Raises:
            UserError: it belongs to other networks or terms.
        """
        try:
            self.student.load_state_dict(state["net_g"])
            if self.ema:
                self.ema.net.load_state_dict(state["net_g_ema"] or state["net_g"])
            self.task.load_train_only_state(state["train_only"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"the training state belongs to other networks or terms: {reason}") from None
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.tally.load_state(state["tally"])
        self.ratios = dict(state["ratios"])
        self.skipped, self.skipped_in_a_row = (int(count) for count in state["skipped"])

    def student_files(self) -> dict[str, dict[str, Any]]:
        """The pure student, as BasicSR writes it: no adapter, nothing of the teacher."""
        content = {"params": cpu_copy(self.student.state_dict())}
        if self.ema:
            content["params_ema"] = cpu_copy(self.ema.net.state_dict())
        return {"net_g": content}

    def inference_network(self) -> nn.Module:
        """The averaged student where there is one, else the student."""
        return self.ema.net if self.ema else self.student


@MODEL_REGISTRY.register()
class ImageDistillModel(DistillModel):
    """Image networks: batches lq (B, C, h, w), gt (B, C, H, W)."""


@MODEL_REGISTRY.register()
class VideoDistillModel(DistillModel):
    """Video networks: batches lq (B, T, C, h, w), gt (B, N, C, H, W)."""
