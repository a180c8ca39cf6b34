"""The training step as a CUDA graph: its kernels are recorded once and from then on started all together.

The step of a small network is hundreds of kernels of a few microseconds each; started one by one, they wait for the
CPU. A graph holds addresses, so that all that changes from step to step (batch, learning rates, weights of the losses)
lies in tensors that are filled before each replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from kdsr_arch.distill.taps import Batch
from kdsr_arch.errors import UserError
from kdsr_arch.log import get_logger
from kdsr_arch.options.schema_train import TrainOptions
from kdsr_arch.parallel import distributed
from kdsr_arch.train.distill_model import DistillModel

# steps before a recording: libraries choose their algorithms and the optimizer makes its state in the first ones
_WARM_UP = 3

Learn = Callable[[Batch, int], dict[str, Tensor]]
"""One whole step on a batch: forward, backward, update. Returns the scalars to log, by name."""


class StepGraph:
    """Runs steps of a training, recorded where they can be.

    Args:
        model: what is trained, on CUDA.
        learn: the step.

    Raises:
        UserError: an optimizer or a term that waits for the GPU in each step.
    """

    def __init__(self, model: DistillModel, learn: Learn) -> None:
        for term in model.task.terms.values():
            if term.listens:
                raise UserError(f"train.cuda_graph: {term.kind} of {term.where} reads its loss after each step; "
                                "take cuda_graph out")  # fmt: skip
        self.model, self.learn = model, learn
        self.stream = torch.cuda.Stream(model.device)
        self._rates = [torch.zeros((), device=model.device) for _ in model.optimizer.param_groups]
        self._weights: dict[str, Tensor] = {}
        self._filled: dict[str, float] = {}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recorded: tuple[Any, ...] = ()
        self._warm = 0

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Do the work inside on the stream that records, so that what a graph replays and other work take turns."""
        caller = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(caller)
        with torch.cuda.stream(self.stream):
            yield
        caller.wait_stream(self.stream)

    def step(self, batch: Batch, iteration: int, weights: Mapping[str, float]) -> dict[str, Tensor]:
        """Take one step, and return its scalars: on the device, to be read before the next step.

        Args:
            batch: what the loader brings, of the same shapes each time.
            weights: of the losses of this iteration.
        """
        names = (self.model.task.stage_number(iteration), *weights)
        if names != self._recorded:
            make_capturable(self.model.optimizer)
            self._graph, self._recorded, self._warm = None, names, 0
            self._weights = {name: torch.zeros((), device=self.stream.device) for name in weights}
            self._filled = {}
        self._fill(weights)
        if self._graph is None:
            if self._warm < _WARM_UP:
                self._warm += 1
                with self._static():
                    return self.learn(batch, iteration)
            self._record(batch, iteration)
        for kept, new in zip(_tensors(self._batch), _tensors(batch), strict=True):
            kept.copy_(new, non_blocking=True)
        assert self._graph is not None
        self._graph.replay()
        return self._figures

    def _fill(self, weights: Mapping[str, float]) -> None:
        """Write this iteration's learning rates and weights, where they changed, into the tensors of the graph."""
        rates = {f"lr {number}": group["lr"] for number, group in enumerate(self.model.optimizer.param_groups)}
        held = dict(zip(rates, self._rates, strict=True)) | self._weights
        for name, value in (rates | dict(weights)).items():
            if self._filled.get(name) != value:
                held[name].fill_(value)
                self._filled[name] = value

    @contextmanager
    def _static(self) -> Iterator[None]:
        """Let optimizer and task read learning rates and weights from the tensors of the graph."""
        groups = self.model.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group, held in zip(groups, self._rates, strict=True):
            group["lr"] = held
        self.model.task.static_weights = self._weights
        try:
            yield
        finally:
            self.model.task.static_weights = {}
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def _record(self, batch: Batch, iteration: int) -> None:
        self._batch = _copied(batch)
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads of this process pin memory meanwhile
            with self._static(), torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self._figures = self.learn(self._batch, iteration)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"train.cuda_graph: this step cannot be recorded; take cuda_graph out ({reason})") from None
        self._graph = graph


def step_graph(model: DistillModel, options: TrainOptions, learn: Learn) -> StepGraph | None:
    """Return what runs the steps where `train.cuda_graph` asks for it; None where they run kernel by kernel.

    Raises:
        UserError: several processes; see :class:`StepGraph`.
    """
    if not options.cuda_graph:
        return None
    if distributed.world_size() > 1:
        raise UserError("train.cuda_graph: is for one process; take it out, or train without a launcher")
    if model.device.type != "cuda":
        get_logger().info("train.cuda_graph: there is no CUDA device here; the steps run without a graph")
        return None
    return StepGraph(model, learn)


def make_capturable(optimizer: Optimizer) -> None:
    """Keep the optimizer's counters on the device, also those of a resumed state.

    Raises:
        UserError: the optimizer cannot.
    """
    for group in optimizer.param_groups:
        if "capturable" not in group:
            raise UserError(
                f"train.cuda_graph: {type(optimizer).__name__} cannot be recorded; take cuda_graph out, or use Adam"
            )
        if group["capturable"]:
            continue
        group["capturable"] = True
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(parameter.device, torch.float32)


def _tensors(batch: Any) -> Iterator[Tensor]:
    """Return the tensors of a batch, those in mappings inside it as well."""
    for value in batch.values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value)


def _copied(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.clone()
    return {k: _copied(v) for k, v in batch.items()} if isinstance(batch, Mapping) else batch
