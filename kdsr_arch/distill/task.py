"""The distillation task: a student, a frozen teacher, and the terms between them, as one module."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.distill.context import CLOCK, check_live, make_context
from kdsr_arch.distill.gradient_norms import gradient_norms
from kdsr_arch.distill.inputs import check_batch, check_restored, first_of, pick
from kdsr_arch.distill.stages import PIXEL, Stage, check_trains, hold, keepers, parse_stages, within
from kdsr_arch.distill.taps import OUTPUT, Batch, Feature, Side, Taps, flat, fold, stop_inplace
from kdsr_arch.distill.teachers import CachedTeacher
from kdsr_arch.distill.terms import Term, TermReport, TermWeight, table
from kdsr_arch.distill.trial import fork_rng, scalar, try_backward, try_loss, undisturbed
from kdsr_arch.errors import UserError
from kdsr_arch.infer.traits import traits_of, unwrap
from kdsr_arch.log import get_logger
from kdsr_arch.losses.base import Context
from kdsr_arch.ops.color import matched_colors
from kdsr_arch.options.schema import TeacherOptions
from kdsr_arch.options.schema_train import DATA, TrainOptions
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import build

INERT = 1e-3
"""Below this part of the pixel loss's gradient a term changes nothing that could be measured."""
_READ = ("lq", "gt", "teacher", "flow", "visible")  # of a batch


@dataclass
class TaskOutput:
    """What one training forward gives.

    Attributes:
        sr: the student's output in its own color, float32: (B, C, H, W), or (B, N, C, H, W) for clips; None where no
            loss asks for it.
        losses: the weighted active losses by name: ``l_pix`` for pixel_opt, ``l_NAME`` for a term; their sum is
            trained.
        raw: the same, unweighted; ``l_pix`` is there whenever pixel_opt and ``sr`` are.
        weights: the weights between the two.
        measured: the terms whose balance was measured for it.
    """

    sr: Tensor | None
    losses: dict[str, Tensor] = field(default_factory=dict)
    raw: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    measured: set[str] = field(default_factory=set)

    @property
    def total(self) -> Tensor:
        """The sum of `losses`; a single one is its own, and spares a tiny network's step four operations."""
        first, *more = self.losses.values()
        return torch.stack([first, *more]).sum() if more else first


class DistillTask(nn.Module):
    """Trains ``student`` by the pixel loss and the terms of ``options``, under ``teacher``.

    The teacher is in eval mode and without gradients; it moves with ``.to(...)`` but is in no ``parameters()``,
    ``state_dict()`` or ``modules()``. ``student`` is used as it is: its state dict holds nothing of the task. Networks
    run under the autocast that their options name, losses in float32 outside of it.

    Making a task is a dry run: both networks run once on the first image or clip of ``sample``, which finds shapes and
    builds adapters and what losses need of their own. Buffers and random states are afterwards what they were, but for
    the draws that new parameters took.

    Args:
        student: network to train.
        teacher: its teacher, live or read from a store; None where no term needs one.
        options: ``pixel_opt``, ``distill_opt``, ``stages``, ``amp``, ``compile``.
        sample: a batch on the device that is trained on; the networks go there.
        scale: of both networks.
        teacher_options: ``amp`` and ``compile`` of the teacher alone.

    Attributes:
        reports: one for each layer of each term, as :meth:`table` prints them.

    Raises:
        UserError: terms or stages that cannot be, taps that do not exist or never fire, shapes that cannot be aligned,
            outputs of another size than the ground truth.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | CachedTeacher | None,
        options: TrainOptions,
        sample: Batch,
        *,
        scale: int,
        teacher_options: TeacherOptions | None = None,
    ) -> None:
        super().__init__()
        check_trains(student)
        sample = check_batch(sample, next(student.parameters()).dtype)
        device = sample["lq"].device
        self.student = unwrap(student).to(device)
        self._student = Side(student, traits_of(student, scale), "student", options.amp, options.compile)
        self._teacher: Side | CachedTeacher | None = None
        if isinstance(teacher, CachedTeacher):
            traits_of(student, teacher.traits.scale)
            self._teacher = teacher
        elif teacher is not None:
            teacher.to(device).requires_grad_(False).eval()
            stop_inplace(teacher)
            precision = teacher_options or TeacherOptions()
            self._teacher = Side(teacher, traits_of(teacher, scale), "teacher", precision.amp, precision.compile)
        pixel = options.pixel_opt
        # without its loss_weight, which is applied here
        self.pixel = build("loss", pixel, "train.pixel_opt") if pixel else None
        if self.pixel is not None and any(p.requires_grad for p in self.pixel.parameters()):
            kind = type(self.pixel).__name__
            raise UserError(
                f"train.pixel_opt: {kind} has parameters, which nothing would train here: make it a term of "
                "train.distill_opt (student: output, teacher: gt), or freeze them where it is made"
            )
        self._pixel_weight = TermWeight(pixel.loss_weight if pixel and pixel.loss_weight is not None else 1.0)
        for name in options.distill_opt:
            # a module's own attributes, such as train and type, cannot be names of its parts
            if not name.isidentifier() or name in (PIXEL, "pix") or hasattr(nn.ModuleDict(), name):
                raise UserError(
                    f"train.distill_opt: '{name}' cannot name a term: use letters, digits and _, and no name that is "
                    "taken, such as pix, pixel, train or type"
                )
        self.terms = nn.ModuleDict({name: Term(name, term) for name, term in options.distill_opt.items()})
        self._resolve_taps()
        names = [*self.terms, *([PIXEL] if self.pixel is not None else [])]
        self._stages = parse_stages(options.stages, names, student)
        self._half = options.amp == "fp16"
        self._frozen: tuple[str, ...] = ()
        self._still: list[nn.Module] = []
        self._inert: set[str] = set()  # terms that were warned of
        self.static_weights: dict[str, Tensor] = {}  # read in place of the numbers while a CUDA graph is recorded
        self.to(device)
        self.reports = self._dry_run({key: first_of(sample[key]) for key in _READ if key in sample})
        self._trainable = {p: p.requires_grad for p in self.parameters()}
        self._student.compile()
        if isinstance(self._teacher, Side):
            self._teacher.compile()
        for sentence in filter(None, (term.waits_beyond(options.total_iter) for term in self._terms())):
            get_logger().warning(sentence)

    def _resolve_taps(self) -> None:
        for term in self._terms():
            term.student = [self._student.resolve(name, term.where) for name in term.student]
            if term.needs_teacher():
                if self._teacher is None:
                    raise UserError(f"{term.where}: {term.kind} compares with a teacher, but there is no network_t")
                term.teacher = [
                    name if name in DATA else self._teacher.resolve(name, term.where) for name in term.teacher
                ]
                if isinstance(self._teacher, CachedTeacher):
                    term.pooled = [self._teacher.pooled(name, term.downsample, term.where) for name in term.teacher]
            if term.needs_live_teacher():
                check_live(self._teacher, f"{term.where}: {term.kind}")

    def _dry_run(self, batch: Batch) -> list[TermReport]:
        lq, gt = batch["lq"], batch["gt"]
        with torch.no_grad(), undisturbed(self.student), fork_rng(lq):
            theirs = self._teacher_features(self._terms(), batch, learn=True)
            with torch.enable_grad():
                sr, taps = self._student.run(batch, self._paths(self._terms(), "student"), learn=True)
                check_restored(sr, gt)
                try_backward(sr, self.student)
            ours = self._features(self._student, sr, taps, lq.shape[0])
            self._try_pixel(sr.float(), gt)
        context = self._context(batch, 0)
        return [report for term in self._terms() for report in term.setup(*pick(term, ours, theirs), context)]

    def _try_pixel(self, sr: Tensor, gt: Tensor) -> None:
        if self.pixel is not None:
            leaf, kind = sr.detach().requires_grad_(), type(self.pixel).__name__
            compute, given = partial(self._pixels, leaf, gt), [Feature(sr, 1), Feature(gt, 1)]
            with undisturbed(self.pixel):
                try_loss("train.pixel_opt", kind, given, compute, [leaf])

    def _pixels(self, sr: Tensor, gt: Tensor) -> Tensor:
        assert self.pixel is not None
        return scalar(self.pixel(*matched_colors(flat(sr), flat(gt))))

    def _terms(self) -> list[Term]:
        return list(self.terms.values())  # type: ignore[arg-type]

    def _apply(self, fn: Callable, recurse: bool = True) -> DistillTask:
        if self._teacher is not None:  # no registered module, yet it goes where the student goes
            self._teacher.net._apply(fn, recurse)
        return super()._apply(fn, recurse)

    # ------------------------------------------------------------------------------------------- around a training

    def table(self) -> str:
        """Render the terms as the dry run met them: term | loss | taps | shapes (one sample) | adapter | weight."""
        return table(self.reports)

    @property
    def teacher(self) -> nn.Module | None:
        """The live teacher; None without one, or where its outputs are read from a store."""
        return self._teacher.net if isinstance(self._teacher, Side) else None

    def teacher_names(self) -> set[str]:
        """Return what the terms of all stages read of the teacher: its output and taps; empty where none needs it."""
        asking = [term for term in self._terms() if term.needs_teacher()]
        return {OUTPUT, *self._paths(asking, "teacher")} if asking else set()

    def train_only_parameters(self) -> list[nn.Parameter]:
        """Return adapters' and losses' own parameters, for the optimizer, without those that never train."""
        return [p for p in self.terms.parameters() if self._trainable[p]]

    def train_only_state(self) -> dict[str, Any]:
        """Return the state of adapters, loss modules and balances: everything but student and teacher."""
        return dict(self.terms.state_dict())

    def load_train_only_state(self, state: Mapping[str, Any]) -> None:
        """Put a :meth:`train_only_state` back; RuntimeError where it is of other shapes, or lacks modules.

        Terms without modules may have come or gone; new ones begin without measurements.
        """
        missing, foreign = self.terms.load_state_dict(dict(state), strict=False)
        if wrong := [name for name in (*missing, *foreign) if not name.endswith("_extra_state")]:
            raise RuntimeError(f"the state and train.distill_opt differ in {', '.join(wrong[:4])}")

    # ------------------------------------------------------------------------------------------------ training

    def _stage(self, iteration: int) -> Stage:
        return next(stage for stage in self._stages if iteration <= stage.last)

    def stage_number(self, iteration: int) -> int:
        """Return the number of the stage that an iteration belongs to."""
        return self._stages.index(self._stage(iteration))

    def _active(self, iteration: int) -> list[Term]:
        return [t for t in self._terms() if t.name in self._stage(iteration).terms and t.runs(iteration)]

    def set_stage(self, iteration: int) -> None:
        """Freeze and thaw as the iteration's stage says: parameters, and the statistics of normalization layers, which
        are then used as they stand. Safe to repeat, in any order.
        """
        frozen = self._stage(iteration).freeze
        if frozen == self._frozen:
            if self._still:
                hold(self._still, ())  # someone may have called train()
            return
        standing = {p for name in frozen if name in self.terms for p in self.terms[name].parameters()}
        # a shared tensor stands if any of its names does
        named = self.student.named_parameters(remove_duplicate=False)
        standing |= {p for path, p in named if within(path, frozen)}
        for param, trains in self._trainable.items():
            param.requires_grad_(trains and param not in standing)
            param.grad = None if param in standing else param.grad
        parts = [keepers(term) for name, term in self.terms.items() if name in frozen]
        still = [m for m in (*keepers(self.student, frozen), *sum(parts, [])) if m.training or m in self._still]
        hold(still, self._still)
        self._frozen, self._still = frozen, still

    def forward(self, batch: Batch, iteration: int) -> TaskOutput:
        """Run one training forward.

        Args:
            batch: a micro-batch, see :data:`~kdsr_arch.distill.taps.Batch`; a pair ``(lq, gt)`` as well.
            iteration: counted from 1; it alone decides the active terms and the schedules.
        """
        batch = check_batch(batch, next(self.student.parameters()).dtype)
        if torch.is_grad_enabled():
            self.set_stage(iteration)  # a loop of one's own may have left it out: nothing would be frozen
        lq, gt, stage = batch["lq"], batch["gt"], self._stage(iteration)
        active = self._active(iteration)
        theirs, ours = self._teacher_features(active, batch), dict[str, Feature]()
        output = TaskOutput(None)
        wanted = PIXEL in stage.terms or any(term.student or term.weight.balance is not None for term in active)
        run = self._student.run(batch, self._paths(active, "student")) if wanted else None
        with torch.autocast(lq.device.type, enabled=False):
            if run is not None:
                check_restored(run[0], gt)
                ours, output.sr = self._features(self._student, *run, lq.shape[0]), run[0].float()
                if self.pixel is not None:
                    output.raw["l_pix"] = self._pixels(output.sr, gt)
            context = self._context(batch, iteration)
            for term in active:
                given = pick(term, ours, theirs)
                value = output.raw[f"l_{term.name}"] = term(*given, context)
                if torch.is_grad_enabled() and not term.reached(given[0], value):
                    self._tell_unreached(term, iteration)
            output.weights["l_pix"] = self._pixel_weight.at(iteration)
            waiting = self._waiting(active)
            if waiting and torch.is_grad_enabled():  # a balance without any measurement is measured here
                self._record(self._norms(output, waiting), output, waiting)
                output.measured = {term.name for term in waiting}
            output.weights |= self._weights(active, iteration)
            shown = [*(["l_pix"] if PIXEL in stage.terms else []), *(f"l_{term.name}" for term in active)]
            if not shown:
                raise UserError(f"train: no loss is active in iteration {iteration}: check stages and weights")
            weights = output.weights | self.static_weights
            output.losses = {name: _weighted(output.raw[name], weights[name]) for name in shown}
        return output

    @torch.no_grad()
    def try_stage(self, sample: Batch, iteration: int) -> None:
        """Compute the losses of an iteration without a trace in networks and terms; see `forward`."""
        eager = torch.compiler.set_stance("force_eager")
        with undisturbed(self.student), undisturbed(self.terms), fork_rng(next(self.student.parameters())), eager:
            self(sample, iteration)

    def _tell_unreached(self, term: Term, iteration: int) -> None:
        if self._student_trains():
            self._warn_once(
                term,
                f"reaches no weight of the student at iteration {iteration}: what it taps is frozen, detached, or in a "
                "part that is checkpointed with use_reentrant=True (take False)",
            )

    def _warn_once(self, term: Term, what: str) -> None:
        if term.name not in self._inert:
            self._inert.add(term.name)
            get_logger().warning(f"term '{term.name}' {what}")

    def known_weights(self, iteration: int) -> dict[str, float] | None:
        """Return the weights of the losses that an iteration trains; None where a balance is to be measured first."""
        active = self._active(iteration)
        if self._waiting(active):
            return None
        pixel = {"l_pix": self._pixel_weight.at(iteration)} if PIXEL in self._stage(iteration).terms else {}
        if any(term.asks_context() for term in active):  # the clock of what it lets depend on the iteration
            pixel[CLOCK] = float(iteration)
        return pixel | self._weights(active, iteration)

    def _student_trains(self) -> bool:
        return any(p.requires_grad for p in self.student.parameters())

    def _waiting(self, active: Sequence[Term]) -> list[Term]:
        """List the terms whose balance can be measured, and never was."""
        waiting = [term for term in active if term.weight.wants_measure() and term.reaches_student()]
        return waiting if waiting and self._student_trains() else []

    def _weights(self, active: Sequence[Term], iteration: int) -> dict[str, float]:
        """Return the weights of terms; a balance that cannot be measured, as no student trains, is left out."""
        balanced = {t.name: not t.weight.wants_measure() or self._student_trains() for t in active}
        return {f"l_{term.name}": term.weight_at(iteration, balanced[term.name]) for term in active}

    def after_step(self, output: TaskOutput, iteration: int) -> None:
        """Tell the losses that ask for it their value; to be called after the optimizer's step."""
        listening = [term for term in self._terms() if term.listens and f"l_{term.name}" in output.raw]
        values = [output.raw[f"l_{term.name}"].detach().clone() for term in listening]
        distributed.average(values)
        for term, value in zip(listening, values, strict=True):
            term.loss.after_step(value, iteration)

    def measure(self, output: TaskOutput, iteration: int) -> dict[str, float]:
        """Measure each term's weighted gradient on the student over the pixel loss's, before ``backward``.

        Moves the balances on (for the next iteration) and warns once of a term that has gone inert. One backward pass
        per term: call it every ``ratio_freq`` iterations.

        Returns:
            Ratios by term name; empty without pixel loss, or while a stage freezes the student.
        """
        measured = [t for t in self._terms() if f"l_{t.name}" in output.losses and t.reaches_student()]
        if "l_pix" not in output.raw or not measured or not self._student_trains():
            return {}
        norms = self._norms(output, measured)
        self._record(norms, output, [term for term in measured if term.name not in output.measured])
        pixel, ratios = norms["l_pix"] * output.weights["l_pix"], dict[str, float]()
        for term in measured:
            norm = norms[f"l_{term.name}"]
            if term.weight.wants_measure() and not math.isfinite(norm):
                self._warn_once(
                    term, f"teaches nothing yet: its gradient on the student is {norm} at iteration {iteration}, and "
                    "its balance waits for a finite one"
                )  # fmt: skip
            ratio = ratios[term.name] = output.weights[f"l_{term.name}"] * norm / pixel if pixel > 0 else math.nan
            # the weight of a balance may be of an older measurement: it follows any gradient, but not none
            inert = ratio < INERT and (norm == 0 or term.weight.balance is None)
            if inert and not term.weight.ramps(iteration):
                advice = "Check where it taps" if norm == 0 else "Raise its loss_weight, or use {balance: r}"
                self._warn_once(
                    term, f"is inert at iteration {iteration}: its gradient on the student is {ratio:.1e} of the pixel "
                    f"loss's. {advice}"
                )  # fmt: skip
        return ratios

    def _norms(self, output: TaskOutput, terms: Sequence[Term]) -> dict[str, float]:
        names = ("l_pix", *(f"l_{term.name}" for term in terms))
        return gradient_norms({name: output.raw[name] for name in names}, self.student, self._half)

    def _record(self, norms: Mapping[str, float], output: TaskOutput, terms: Sequence[Term]) -> None:
        for term in terms:
            term.weight.record(norms["l_pix"] * output.weights["l_pix"], norms[f"l_{term.name}"])

    # ------------------------------------------------------------------------------------------------- features

    def _context(self, batch: Batch, iteration: int) -> Context:
        clock = self.static_weights.get(CLOCK)
        if clock is None:
            clock = torch.full((), float(iteration), device=batch["lq"].device)
        return make_context(self._student, self._teacher, batch, clock)

    @staticmethod
    def _paths(terms: Sequence[Term], side: str) -> list[str]:
        return sorted({path for term in terms for path in getattr(term, side)} - {OUTPUT, *DATA})

    def _teacher_features(self, terms: Sequence[Term], batch: Batch, learn: bool = False) -> dict[str, Feature]:
        """Return the teacher's taps, detached, and the batch; skip the teacher where no term wants it."""
        count = batch["lq"].shape[0]
        data = {name: Feature(flat(batch[name]), count) for name in DATA}
        terms = [t for t in terms if t.needs_teacher()]
        if not terms:
            return data
        side = self._teacher
        assert side is not None
        with torch.no_grad():
            sr, taps = side.run(batch, self._paths(terms, "teacher"), learn)
            return self._features(side, sr, taps, count) | data

    @staticmethod
    def _features(side: Side | CachedTeacher, sr: Tensor, taps: Taps, batch: int) -> dict[str, Feature]:
        recurrent = side.traits.mode == "recurrent"
        features = {
            path: fold(fires, batch, recurrent, f"tap '{path}' of the {side.name}") for path, fires in taps.items()
        }
        return features | {OUTPUT: Feature(flat(sr), batch)}


def _weighted(loss: Tensor, weight: float | Tensor) -> Tensor:
    """Return the product; the loss itself where the weight is the number 1."""
    return loss if isinstance(weight, float) and weight == 1.0 else loss * weight
