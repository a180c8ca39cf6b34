"""The training loop: one iteration after the other, and what happens between them.

The state saved at iteration k is the state before the validation at k. So a run resumed from it first does that
validation, if one is
due: a kill between the two loses nothing, and the resumed run is the unbroken one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdsr_arch.errors import UserError
from kdsr_arch.log import get_logger
from kdsr_arch.ops.offset_monitor import OffsetMonitor
from kdsr_arch.parallel import distributed
from kdsr_arch.signals import Interrupted, StopRequest
from kdsr_arch.train.checkpoint import random_states, random_states_kept, set_random_states
from kdsr_arch.train.history import History, Trackers
from kdsr_arch.train.meter import NonFiniteError
from kdsr_arch.train.progress_bar import Progress
from kdsr_arch.train.run_files import Checkpoints
from kdsr_arch.train.trainable import Trainable
from kdsr_arch.train.validation import Validator

# iterations between agreements of all processes to stop: each makes the CPUs wait for one another
STOP_PERIOD_CUDA = 10
# iterations between two warnings of deformable offsets that explode
OFFSET_REPORT_PERIOD = 1000


@dataclass
class Output:
    """Where the main process writes; None elsewhere."""

    history: History
    trackers: Trackers


class Loop:
    """One training.

    Args:
        model: what is trained.
        batches: from iteration `position` + 1 on.
        validator: scores the network.
        checkpoints: writes files, on the main process.
        stop: what signals asked for.
        opt: validated options; read are `train.total_iter`, `logger`, `manual_seed`.
        output: None on all but the main process.
        position: iterations done already.
    """

    def __init__(
        self,
        model: Trainable,
        batches: Iterator[Mapping[str, Any]],
        validator: Validator,
        checkpoints: Checkpoints,
        stop: StopRequest,
        opt: Mapping[str, Any],
        output: Output | None,
        position: int = 0,
    ) -> None:
        self.model, self.batches, self.validator, self.checkpoints = model, batches, validator, checkpoints
        self.stop, self.output, self.position = stop, output, position
        self.total: int = opt["train"]["total_iter"]
        self.seed: int = opt.get("manual_seed") or 0
        self.print_freq: int = opt["logger"]["print_freq"]
        self.save_freq: int = opt["logger"]["save_checkpoint_freq"]
        self.save_seconds = 60 * (opt["logger"].get("save_checkpoint_minutes") or float("inf"))
        self.progress = Progress(self.total, position)
        self.offsets = OffsetMonitor(nn.ModuleList(model.modules()), every=OFFSET_REPORT_PERIOD)
        self.saved, self.saved_at = position, time.monotonic()
        on_cpu = next(model.modules()[0].parameters()).device.type == "cpu"
        self.stop_period = 1 if on_cpu else STOP_PERIOD_CUDA

    # ------------------------------------------------------------------------------------------------ the loop

    def run(self) -> bool:
        """Train to the end or until asked to stop; returns whether the end was reached.

        Raises:
            NonFiniteError: a loss was NaN or infinite; the last saved state is untouched.
        """
        try:
            finished = self._run()
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{error}. Training stopped; {self.kept()}. Lower the learning rate or the term's weight"
            ) from None
        finally:
            self.progress.close()
            self.offsets.remove()
        if finished and distributed.is_main():
            self.checkpoints.save_networks("latest", self.model.student_files())
        return finished

    def kept(self) -> str:
        """What is on the disk, for messages."""
        return f"the state of iteration {self.saved:,} is kept" if self.saved else "no state was saved yet"

    def _run(self) -> bool:
        if self.position and self._validation_due(self.position) and not self._validate():
            return False
        for iteration in range(self.position + 1, self.total + 1):
            before = time.perf_counter()
            batch = next(self.batches)
            waited = time.perf_counter() - before

            self.model.update_learning_rate(iteration)
            self.model.feed_data(batch)
            self.model.optimize_parameters(iteration)
            self.position = iteration
            self.progress.step(waited)

            if iteration % self.print_freq == 0:
                self._report()
            leaving, overdue = self._asked()
            if leaving or overdue or iteration % self.save_freq == 0 or iteration == self.total:
                self._save()
            if leaving:
                return False
            if self._validation_due(iteration) and not self._validate():
                return False
        return True

    def _validation_due(self, iteration: int) -> bool:
        return bool(self.validator.due(iteration, self.total))

    def _asked(self) -> tuple[bool, bool]:
        """Whether to leave, and whether the last checkpoint is too long ago by the main process's clock: the same on
        all processes, which ask one another once for both.
        """
        overdue = distributed.is_main() and time.monotonic() - self.saved_at >= self.save_seconds
        if not distributed.is_distributed():
            return bool(self.stop.signum), overdue
        if self.position % self.stop_period and self.position != self.total:
            return False, False
        agreed = distributed.agree_max(2 * self.stop.signum + overdue)
        if agreed // 2:  # never put back a 0: a signal may have come while waiting for the others
            self.stop.signum = agreed // 2
        return bool(agreed // 2), bool(agreed % 2)

    # ------------------------------------------------------------------------------------- between iterations

    def _report(self) -> None:
        self.model.check_finite()
        log, rates = self.model.get_current_log(), self.model.get_current_learning_rate()
        line = self.progress.line(self.position, rates, log)
        exploding = self.offsets.report(self.position)
        if self.output is None:
            return
        get_logger().info(line)
        if exploding:
            get_logger().warning(exploding)
        self.output.history.add("train", self.position, lr=rates, **log)
        self.output.trackers.add("train", {**log, "lr": rates[0]}, self.position)

    def _save(self) -> None:
        paused = self.progress.pause()
        self.model.check_finite()
        distributed.broadcast_buffers(self.model.modules())
        self.model.share_figures()
        generators = distributed.gather(random_states())
        if distributed.is_main():
            best = self.validator.best
            state = {"model": self.model.training_state(), "random": generators, "best": best.records}
            if self.output is not None:
                self.output.history.sync()  # a state is never on the disk without the lines before it
            self.checkpoints.save(self.position, self.model.student_files(), {**state, "ranking": best.ranking})
        distributed.barrier()
        self.saved, self.saved_at = self.position, time.monotonic()
        self.progress.go_on(paused)

    def _validate(self) -> bool:
        """Returns False when a signal cut it short; the state before it is then saved."""
        paused = self.progress.pause()
        self.model.check_finite()
        distributed.broadcast_buffers(self.model.modules())
        keys = self.validator.due(self.position, self.total)
        try:
            with random_states_kept():
                if distributed.is_distributed():
                    results = self.validator.run(self.model.inference_network(), self.position, keys)
                else:
                    with self.stop.interruptible():
                        results = self.validator.run(self.model.inference_network(), self.position, keys)
        except Interrupted:
            if self.saved != self.position:
                self._save()
            return False
        best = self.validator.judge(results, self.position)
        kept = self.validator.to_keep(results, self.position)
        if self.output is not None:
            self._record(results, best, kept)
        self.progress.go_on(paused)
        return True

    def _record(self, results: Mapping[str, Any], best: dict[str, Any] | None, kept: Mapping[str, list[int]]) -> None:
        assert self.output is not None
        get_logger().info(self.validator.text(results, self.position))
        for key, result in results.items():
            self.output.history.add("val", self.position, dataset=key, protocol=result.protocol, **result.mean)
            self.output.trackers.add(f"metrics/{key}", result.mean, self.position)
        if best is not None:
            self.checkpoints.save_networks("best", self.model.student_files())
            self.checkpoints.save_record(best)
        for metric, iterations in kept.items():
            self.checkpoints.keep_best(metric, iterations, self.position, self.model.student_files())

    # ---------------------------------------------------------------------------------------------- going on

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; to be called after the loader was started, which may draw random numbers.

        Raises:
            UserError: it belongs to other networks or terms, or does not hold what a state should.
        """
        try:
            self._take_up(state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(f"the training state cannot be gone on from, resume from another one ({reason})") from None

    def _take_up(self, state: Mapping[str, Any]) -> None:
        self.model.load_training_state(state["model"])
        self.validator.best.records = {k: dict(v) for k, v in state["best"].items()}
        self.validator.best.ranking = {k: [dict(e) for e in v] for k, v in state.get("ranking", {}).items()}
        generators = state["random"]
        if len(generators) == distributed.world_size():
            set_random_states(generators[distributed.rank()])
            return
        torch.manual_seed(self.seed + self.position * distributed.world_size() + distributed.rank())
        get_logger().info(
            f"The state is of {len(generators)} processes, now there are {distributed.world_size()}: "
            "the data go on as they were, random numbers drawn by the networks (dropout) do not"
        )
