"""One training step: a batch forward and backward, the update, and the watch over what is not finite."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from kdsr_arch.distill.taps import Batch
from kdsr_arch.optim.update import clip_gradients, gradient_norm
from kdsr_arch.options.schema_train import TrainOptions
from kdsr_arch.parallel import distributed
from kdsr_arch.train.distill_model import DistillModel
from kdsr_arch.train.meter import Meter, NonFiniteError, stop_if_nonfinite
from kdsr_arch.train.step_graph import StepGraph

# a GPU is asked once in so many iterations whether all losses were finite, and answers by the next question
CHECK_PERIOD_CUDA = 16
# steps in a row that the gradient scaler may leave out: its scale is then 2^40 times smaller than it was
SCALER_PATIENCE = 40


class Source(Protocol):
    """Where micro-batches come from: :class:`~kdsr_arch.data.stretches.BatchesInTurn`, or what a user's loop has."""

    @property
    def expand(self) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """What makes of a batch that which a step takes."""

    def __next__(self) -> dict[str, Any]:
        """Return the next one."""


class Steps:
    """What a trainer does in each iteration.

    Attributes:
        model, options: what is trained, and `train`.
        device, world: where, and by how many processes.
        batches, batch: where micro-batches come from, and the last one.
        graph: what runs recorded steps; None where they run kernel by kernel.
        meter, ratios: losses since the last line of the log, and the latest gradient ratios of the terms.
        skipped, skipped_in_a_row: steps that the gradient scaler left out.
        waited: seconds for batches since the last line of the log.
    """

    def __init__(self, model: DistillModel, options: TrainOptions, batches: Source) -> None:
        self.model, self.options, self.batches = model, options, batches
        self.device, self.world = model.device, distributed.world_size()
        self.batch: Batch = {}
        self.graph: StepGraph | None = None
        self.meter, self.ratios = Meter(self.device), dict[str, float]()
        self.skipped = self.skipped_in_a_row = 0
        self.waited = 0.0

    def step(self, iteration: int) -> None:
        """Take one training step: learning rate, each micro-batch forward and backward, average, clip, step, EMA.

        Raises:
            NonFiniteError: a loss or the gradient is NaN or infinite; on the CPU before any weight was touched.
        """
        model, options = self.model, self.options
        model.schedule.advance(iteration)
        model.task.set_stage(iteration)
        measured = len(model.task.terms) > 0 and (iteration == 1 or iteration % options.ratio_freq == 0)
        if self.graph is not None and not measured and (weights := model.task.known_weights(iteration)):
            self._draw(cut=False)
            self.meter.add(self.graph.step(self.batch, iteration, weights), iteration)
            self._check_now_and_then(iteration)
            return
        model.optimizer.zero_grad(set_to_none=True)
        for micro in range(options.accumulation):  # one micro-batch lies on the device at a time
            self._draw()
            output = model.task(self.batch, iteration)
            self.meter.add(output.losses, iteration)
            if micro == 0 and measured:
                self.ratios = model.task.measure(output, iteration)
            loss = output.total
            model.scaler.scale(loss / options.accumulation if options.accumulation > 1 else loss).backward()
        if self.world > 1:
            distributed.average_gradients(model.parameters)

        model.scaler.unscale_(model.optimizer)
        gradients, norm = self._gradients()
        if not model.scaler.is_enabled():  # it meets infinite gradients itself
            self.meter.add({"grad_norm": norm}, iteration)
        self._check_now_and_then(iteration)
        clip_gradients(gradients, norm, options.grad_clip)
        scale = model.scaler.get_scale()
        model.scaler.step(model.optimizer)
        model.scaler.update()
        if model.scaler.get_scale() < scale:
            self._count_skipped(scale)
            return
        self.skipped_in_a_row = 0
        if model.ema:
            model.ema.update(model.student)
        model.task.after_step(output, iteration)

    def _learn(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """Take a step of one micro-batch without ever waiting for the device, as a graph records it."""
        model = self.model
        model.optimizer.zero_grad(set_to_none=True)
        output = model.task(self.batches.expand(batch), iteration)
        output.total.backward()
        gradients, norm = self._gradients()
        clip_gradients(gradients, norm, self.options.grad_clip)
        model.optimizer.step()
        if model.ema:
            model.ema.update(model.student)
        return {name: loss.detach() for name, loss in output.losses.items()} | {"grad_norm": norm}

    def _gradients(self) -> tuple[list[Tensor], Tensor]:
        """Return the gradients that there are, and their norm."""
        gradients = [p.grad for p in self.model.parameters if p.grad is not None]
        return gradients, gradient_norm(gradients)

    def _draw(self, cut: bool = True) -> None:
        """Take the next micro-batch; the time that goes by waiting for it is shown in the log.

        Args:
            cut: cut what is resident on the device.
        """
        began = time.perf_counter()
        self.batch = {}  # its memory is free before the next one is drawn
        batch = next(self.batches)
        self.batch = self.batches.expand(batch) if cut else batch
        self.waited += time.perf_counter() - began

    def _count_skipped(self, scale: float) -> None:
        self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= SCALER_PATIENCE:
            raise NonFiniteError(
                f"the gradient scaler has left out {SCALER_PATIENCE} steps in a row, down to a scale of {scale:.3g}: "
                "the gradient is infinite or NaN at any scale; use train.amp bf16 or no"
            )

    def _check_now_and_then(self, iteration: int) -> None:
        """Check each iteration on the CPU; on a GPU every few, of which one process alone waits for none."""
        on_gpu = self.device.type == "cuda"
        if on_gpu and iteration % CHECK_PERIOD_CUDA:
            return
        if not on_gpu or self.world > 1 or self.meter.suspects():
            self.check_finite(iteration)

    def check_finite(self, iteration: int) -> None:
        """Raise NonFiniteError where a loss since the last line of the log was not finite; all processes call it."""
        first, names = self.meter.first_bad()
        if names or self.world > 1:
            stop_if_nonfinite(first, names, self.batch if first == iteration else {})

    def figures(self) -> dict[str, float]:
        """Return means since the last line of the log over iterations and processes, and the latest gradient ratios.

        A term that has not run since then has no ratio: it may be out of its stage, or gone.
        """
        figures = self.meter.means()
        figures |= {f"ratio/{name}": value for name, value in self.ratios.items() if f"l_{name}" in figures}
        return figures | ({"skipped_steps": float(self.skipped)} if self.model.scaler.is_enabled() else {})
