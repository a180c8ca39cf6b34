"""One training, from validated options to a trained network. Reads from top to bottom: build, loop, step, finish."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import Any

import torch
from torch import nn

from kdsr_arch.data.loader import Batches, first_sample, train_batches
from kdsr_arch.data.stretches import BatchesInTurn, Stretch, open_stretches
from kdsr_arch.distill.taps import Batch
from kdsr_arch.distill.teachers import weights_digests
from kdsr_arch.errors import Lost, ProgramFault, UserError, as_user_error
from kdsr_arch.log import TextLog, get_logger
from kdsr_arch.ops.offset_monitor import OffsetMonitor
from kdsr_arch.options.schema import Options
from kdsr_arch.parallel import distributed
from kdsr_arch.records import environment
from kdsr_arch.registry import lookup
from kdsr_arch.signals import Interrupted, StopRequest
from kdsr_arch.train.checkpoint import random_states, random_states_kept, seed_everything, set_random_states
from kdsr_arch.train.distill_model import DistillModel
from kdsr_arch.train.history import History, Trackers
from kdsr_arch.train.meter import NonFiniteError, Progress
from kdsr_arch.train.resume import alike_everywhere, find_state, fingerprint, start_digests, with_start_of
from kdsr_arch.train.run_files import Checkpoints, folder_lock, is_own, open_folder
from kdsr_arch.train.step_graph import step_graph
from kdsr_arch.train.steps import Steps
from kdsr_arch.train.validation import Validator

# iterations between agreements of all processes to stop: each makes the CPUs wait for one another
STOP_PERIOD_CUDA = 10
# iterations between two warnings of deformable offsets that explode
OFFSET_REPORT_PERIOD = 1000
_TRIED = 3  # samples that a stage is tried on: as many as any term compares


class Trainer(Steps):
    """One training. Making it opens the data, builds the networks and finds the state to resume; `run` trains.

    Nothing is created on the disk before all of that was found sound.

    Args:
        opt: validated options.
        stop: what signals ask for.
        auto_resume: resume from the newest whole state of this experiment, where there is one.

    Raises:
        UserError: anything the user can mend.
    """

    # ------------------------------------------------------------------------------------------------------- build

    def __init__(self, opt: Options, stop: StopRequest | None = None, auto_resume: bool = False) -> None:
        assert opt.train is not None
        self.opt, self.options, self.stop = opt, opt.train, stop or StopRequest()
        self.total = self.options.total_iter
        get_logger().info(f"{opt.name}: {opt.model_type}, {distributed.world_size()} process(es), {environment()}")
        seed_everything(opt.manual_seed, opt.deterministic)
        Trackers.modules(opt)  # before anything is created
        stretches = open_stretches(opt)
        self.model = self.build_model(first_sample(stretches[0].dataset, opt.manual_seed))
        for stretch in stretches[1:]:
            self._try_stage(stretch)

        about = {"net_g": {"network": opt.network_g.plain(), "scale": opt.scale}} if opt.scale else None
        keep, form, samples = opt.logger.keep_last or 0, opt.logger.checkpoint_format, len(stretches[0].dataset)
        mine = fingerprint(opt, self.model.teacher, samples, weights_digests(opt), start_digests(opt))
        self.checkpoints = Checkpoints(opt.folder, mine, keep, form, about)
        self.saved_state = find_state(opt, self.model, auto_resume, mine)
        if self.saved_state is not None:
            self.checkpoints.fingerprint = with_start_of(self.saved_state.content["fingerprint"], mine)
        self.position: int = self.saved_state.content["iter"] if self.saved_state else 0  # iterations done
        alike_everywhere(opt, self.position)

        self.resources = ExitStack()  # what is closed at the end
        batches = BatchesInTurn(stretches, self.position, self.options.accumulation, self._draw_from)
        self.resources.callback(batches.close)
        super().__init__(self.model, self.options, batches)
        try:
            self.graph = step_graph(self.model, self.options, self._learn)
            self.validator = Validator(opt, self.device)
            distributed.broadcast_modules(self.model.modules())
            if not self.position:
                with random_states_kept():
                    self.validator.try_one(self.model.inference_network())
        except BaseException:
            self.close()
            raise
        self.saved, self.saved_at = self.position, time.monotonic()

    def build_model(self, sample: Batch) -> DistillModel:
        """Build what is trained, tried on a batch of one: a DistillModel, or a class of the user's derived from it."""
        return lookup("model", self.opt.model_type)(self.opt, sample)

    def _try_stage(self, stretch: Stretch) -> None:
        """Compute the losses of a stage with crops or batches of its own: they may fit no network or term."""
        section = stretch.section
        sample = first_sample(stretch.dataset, self.opt.manual_seed, min(section.batch_size_per_gpu or 1, _TRIED))
        try:
            self.model.try_stage(sample, stretch.last)
        except UserError as error:
            sizes = f"gt_size {section.gt_size}, batch_size_per_gpu {section.batch_size_per_gpu}"
            error.args = (f"train.stages, the one with {sizes} up to iteration {stretch.last:,}: {error}",)
            raise

    def _draw_from(self, stretch: Stretch, start: int) -> Batches:
        names, part = self.model.teacher_names(), (stretch.section, stretch.last)
        return train_batches(self.opt, stretch.dataset, start, self.model.device, names, *part)

    def close(self) -> None:
        """Send the loader's workers home, close the logs, release the folder."""
        self.resources.close()

    # --------------------------------------------------------------------------------------------------------- run

    def run(self, log: TextLog) -> bool:
        """Train to the end, or until a signal asks to stop; then all is saved.

        Returns:
            Whether the end was reached.

        Raises:
            NonFiniteError: a loss or gradient was NaN or infinite; the last saved state is untouched.
            UserError: anything else the user can mend.
        """
        get_logger().info(self.model.describe())
        with self.resources:
            self._open_logs(log)
            began = time.monotonic()
            try:
                with self.graph.on_stream() if self.graph else nullcontext():
                    finished = self._loop()
            except Exception as error:
                fault = self._with_what_is_kept(as_user_error(error))
                if fault is error:
                    raise
                raise fault from error
        spent = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - began))
        if finished:
            file = self.checkpoints.network_file("net_g", "latest")
            get_logger().info(f"Finished {self.position:,} iterations ({spent}): {file}")
        else:
            get_logger().warning(f"Stopped at iteration {self.position:,} and saved; --auto_resume goes on from here")
        return finished

    def _with_what_is_kept(self, fault: UserError) -> UserError:
        """Add to the sentence that ends the training what is on the disk."""
        saved = self.saved and self.checkpoints.state_file(self.saved).is_file()  # the folder may be gone
        kept = f"the state of iteration {self.saved:,} is kept" if saved else "no state is kept"
        if isinstance(fault, NonFiniteError):
            fault.args = (f"{fault}. Training stopped; {kept}",)
        elif kept not in str(fault) and (self.saved or isinstance(fault, Lost | ProgramFault)):
            fault.args = (f"{fault}; {kept}{', go on with --auto_resume' if saved else ''}",)
        return fault

    def _open_logs(self, log: TextLog) -> None:
        """Take the experiment folder and open what is written there, on the main process; then resume."""
        self.history: History | None = None
        folder = self.opt.folder
        state = self.saved_state.path if self.saved_state else None
        own = self.position if state is not None and is_own(folder, state) else 0  # what this folder's run has done
        if distributed.is_main():
            self.resources.enter_context(folder_lock(folder))
            try:
                self.trackers = Trackers(self.opt, own)  # before an earlier run is renamed
                self.resources.callback(self.trackers.close)
                stamp = open_folder(self.opt, self.checkpoints, own, None if own else state)
                log.open(folder / f"train_{folder.name}_{stamp}.log")
                self.history = History(folder / "history.jsonl", self.position, self.opt.logger.print_freq)
                self.resources.callback(self.history.close)
                self.trackers.open()
            except OSError as error:
                raise UserError(
                    f"{folder}: the experiment folder cannot be written ({error.strerror or error})"
                ) from None
        distributed.barrier()
        self.progress = Progress(self.total, self.position)
        self.resources.callback(self.progress.bar.close)
        self.offsets = OffsetMonitor(nn.ModuleList(self.model.modules()), every=OFFSET_REPORT_PERIOD)
        self.resources.callback(self.offsets.remove)
        if self.saved_state is not None:
            self.resume(self.saved_state.content, self.saved_state.schedule_anew)
            # as the main process sees it: the folders of others may have other names
            if stale := self.validator.begin_anew(distributed.from_main(self.saved_state.rescored)):
                get_logger().warning(
                    f"The best values were scored by other options, and begin anew: {', '.join(stale)}"
                )
            self.saved_state = None

    # ---------------------------------------------------------------------------------------------------- the loop

    def _loop(self) -> bool:
        """Run one iteration after the other, and what is due between them; return whether the end was reached.

        The state saved at iteration k is the state before the validation at k. So a run resumed from it first does
        that validation, if one is due: a kill between the two loses nothing, and the resumed run is the unbroken one.
        """
        logger = self.opt.logger
        with self.progress.paused():
            if not self.position:
                self._tell_teacher()
            elif not self.validate():
                return False
        if self.has_settled():  # a state resumed once more
            return self._finish()
        for iteration in range(self.position + 1, self.total + 1):
            self.step(iteration)
            self.position = iteration
            self.progress.bar.update()
            if iteration % logger.print_freq == 0:
                self.report()
            leaving, overdue = self._asked()
            with self.progress.paused():
                if leaving or overdue or iteration % logger.save_checkpoint_freq == 0 or iteration == self.total:
                    self.save()
                if leaving or not self.validate():
                    return False
                if self.has_settled():
                    break
        return self._finish()

    def _finish(self) -> bool:
        if distributed.is_main():
            self.checkpoints.save_networks("latest", self.model.network_files())
        return True

    def will_write(self) -> dict[str, dict[str, Any]]:
        """Return the files of networks that the whole run leaves, by name, as they would be now.

        Which of the best validations `logger.keep_best` keeps nobody knows before: these are left out.
        """
        every = self.opt.logger.save_checkpoint_freq
        saved = [*range(every, self.total, every), self.total][-self.checkpoints.keep_last :]
        labels = [*map(str, saved), "latest"]
        if self.validator.first is not None and self.validator.deciding:
            labels.append("best")
        files = self.model.network_files().items()
        return {self.checkpoints.network_file(name, label).name: net for name, net in files for label in labels}

    def has_settled(self) -> bool:
        """Tell whether validations have brought nothing better for as long as `train.patience` says; then save."""
        patience, best = self.options.patience, self.validator.best_iteration()
        if patience is None or best is None or self.position - best < patience * self.validator.period():
            return False
        if self.saved != self.position:
            self.save()
        if self.position < self.total:
            get_logger().info(f"Nothing better since iteration {best:,} (train.patience): stopping")
        return True

    def _tell_teacher(self) -> None:
        """Tell what the teacher itself reaches on the first validation set: so much is there to be learned."""
        val, teacher = self.opt.val, self.model.teacher
        if teacher is not None and val is not None and val.score_teacher and val.metrics and self.validator.sets:
            with suppress(Interrupted), random_states_kept(), self._interruptible():
                get_logger().info(self.validator.score_of(teacher))

    def _interruptible(self) -> AbstractContextManager[None]:
        return nullcontext() if self.world > 1 else self.stop.interruptible()

    def _asked(self) -> tuple[bool, bool]:
        """Tell whether to leave, and whether the last checkpoint is too long ago by the main process's clock.

        The answer is the same on all processes, which ask one another once for both.
        """
        minutes = self.opt.logger.save_checkpoint_minutes
        overdue = minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes
        if self.world == 1:
            return bool(self.stop.signum), overdue
        period = 1 if self.device.type == "cpu" else STOP_PERIOD_CUDA
        if self.position % period and self.position != self.total:
            return False, False
        agreed = distributed.agree_max(2 * self.stop.signum + (overdue and distributed.is_main()))
        if agreed // 2:  # never put back a 0: a signal may have come while waiting for the others
            self.stop.signum = agreed // 2
        return bool(agreed // 2), bool(agreed % 2)

    # ------------------------------------------------------------------------------------------ report, save, validate

    def report(self) -> None:
        """Write a line of the log."""
        self.check_finite(self.position)
        figures, rates = self.figures(), self.model.rates()
        line = self.progress.line(self.position, rates, figures, self.waited)
        self.waited = 0.0
        exploding = self.offsets.report(self.position)
        if self.history is None:
            return
        get_logger().info(line)
        if exploding:
            get_logger().warning(exploding)
        self.history.add("train", self.position, lr=rates, **figures)
        self.trackers.add("train", {**figures, "lr": rates[0]}, self.position)

    def save(self) -> None:
        """Write the networks and the training state of this iteration."""
        self.check_finite(self.position)
        distributed.broadcast_buffers(self.model.modules())
        self.meter.share()
        generators = distributed.gather(random_states())
        if distributed.is_main():
            if self.history is not None:
                self.history.sync()  # a state is never on the disk without the lines before it
            self.checkpoints.save(self.position, self.model.network_files(), self.training_state(generators))
        distributed.barrier()
        self.saved, self.saved_at = self.position, time.monotonic()

    def training_state(self, generators: list[Any]) -> dict[str, Any]:
        """Return all that `resume` needs to go on as if nothing had happened: tensors and plain containers.

        Args:
            generators: the states of random numbers of every process.
        """
        best = self.validator.best
        return {
            "model": self.model.state(), "random": generators, "best": best.records, "ranking": best.ranking,
            "meter": self.meter.state(), "ratios": dict(self.ratios), "skipped": [self.skipped, self.skipped_in_a_row],
        }  # fmt: skip

    def resume(self, state: Mapping[str, Any], schedule_anew: int = 0) -> None:
        """Resume from a saved state; to be called after the loader was started, which may draw random numbers.

        Raises:
            UserError: it belongs to other networks or terms, or does not hold what a state should.
        """
        try:
            self.model.load_state(state["model"], schedule_anew)
            self.meter.load_state(state["meter"])
            self.ratios = dict(state["ratios"])
            self.skipped, self.skipped_in_a_row = (int(count) for count in state["skipped"])
            self.validator.best.records = {k: dict(v) for k, v in state["best"].items()}
            self.validator.best.ranking = {k: [dict(e) for e in v] for k, v in state["ranking"].items()}
            generators = state["random"]
            if len(generators) == self.world:
                set_random_states(generators[distributed.rank()])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(f"cannot resume from this training state, take another one ({reason})") from None
        if len(generators) != self.world:
            torch.manual_seed(self.opt.manual_seed + self.position * self.world + distributed.rank())
            get_logger().info(
                f"The state is of {len(generators)} processes, now there are {self.world}: "
                "the data go on as they were, random numbers drawn by the networks (dropout) do not"
            )

    def validate(self) -> bool:
        """Score the network on the data sets that are due: all at the end, else each at its own frequency.

        Returns:
            False when a signal cut it short; the state before it is then saved.
        """
        every, iteration = self.validator.every, self.position
        keys = [k for k, period in every.items() if iteration == self.total or (period and iteration % period == 0)]
        if not keys:
            return True
        self.check_finite(iteration)
        distributed.broadcast_buffers(self.model.modules())
        try:
            with random_states_kept(), self._interruptible():
                results = self.validator.run(self.model.inference_network(), iteration, keys)
        except Interrupted:
            if self.saved != iteration:
                self.save()
            return False
        best, kept = self.validator.judge(results, iteration), self.validator.to_keep(results, iteration)
        if self.history is not None:
            get_logger().info(self.validator.text(results, iteration))
            for key, result in results.items():
                self.history.add("val", iteration, dataset=key, protocol=result.protocol, **result.mean)
                self.trackers.add(f"metrics/{self.opt.datasets[key].name or key}", result.mean, iteration)
            if best is not None:
                self.checkpoints.save_networks("best", self.model.network_files())
                self.checkpoints.save_record(best)
            for metric, iterations in kept.items():
                self.checkpoints.keep_best(metric, iterations, iteration, self.model.network_files())
        return True
