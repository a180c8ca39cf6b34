"""A term: one loss, what it taps on each side, the adapters in between, and its weight."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.distill.adapters import Adapter, build_adapter
from kdsr_arch.distill.taps import OUTPUT, Feature, Value, same_frames
from kdsr_arch.distill.trial import fork_rng, scalar, text_of, try_loss, undisturbed
from kdsr_arch.errors import UserError
from kdsr_arch.losses.base import Context, DistillLoss
from kdsr_arch.options.schema_train import DATA, TermOptions, WeightOptions
from kdsr_arch.registry import build

BALANCE_MEASUREMENTS = 10  # measurements whose median counts, where the option file does not say how many


@dataclass(frozen=True)
class TermReport:
    """One row of the table of the dry run: a tapped layer of a term."""

    term: str
    loss: str
    student: str
    teacher: str
    student_shape: str
    teacher_shape: str
    adapter: str
    weight: str


_HEAD = ("term", "loss", "student tap", "teacher tap", "student shape", "teacher shape", "adapter", "weight")


def table(reports: Sequence[TermReport]) -> str:
    """Render the rows in aligned columns; a sentence where there is no term."""
    if not reports:
        return "no distillation: the student is trained alone"
    rows = [_HEAD, *(astuple(r) for r in reports)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-+-".join("-" * width for width in widths), *lines[1:]])


class TermWeight(nn.Module):
    """weight(iteration) = constant * schedule(iteration) * r * median of the last measured |g_pixel| / |g_term|.

    Factors that the option file does not name are 1. The measured ratios are part of the state dict, so that a resumed
    run goes on with the same weight; they live on the CPU, so that reading a weight never waits for a GPU.

    Args:
        options: ``loss_weight``: a number, or what is multiplied.
    """

    def __init__(self, options: float | WeightOptions = 1.0) -> None:
        super().__init__()
        given = options if isinstance(options, WeightOptions) else WeightOptions(constant=options)
        self.constant = 1.0 if given.constant is None else given.constant
        self.schedule = None if given.schedule is None else [(int(point), value) for point, value in given.schedule]
        self.balance = given.balance
        self.ratios: deque[float] = deque(maxlen=given.measurements or BALANCE_MEASUREMENTS)

    def at(self, iteration: int) -> float:
        """Return the weight of this iteration; a balance that was never measured counts as 0."""
        balance = 1.0
        if self.balance is not None:
            balance = self.balance * (statistics.median(self.ratios) if self.ratios else 0.0)
        return self.planned(iteration) * balance

    def planned(self, iteration: int) -> float:
        """Return what is known beforehand: constant * schedule(iteration)."""
        return self.constant * (1.0 if self.schedule is None else interpolate(self.schedule, iteration))

    def wants_measure(self) -> bool:
        """Tell whether a balance still waits for its first measurement."""
        return self.balance is not None and not self.ratios

    def ramps(self, iteration: int) -> bool:
        """Tell whether the schedule has not reached its last point."""
        return self.schedule is not None and iteration < self.schedule[-1][0]

    def record(self, pixel_norm: float, term_norm: float) -> None:
        """Note one measurement: gradient norms on the student of the pixel loss and of the unweighted term.

        A term without gradient, or a non-finite norm, tells nothing and is passed over.
        """
        if self.balance is None or not (0 < term_norm < math.inf and 0 < pixel_norm < math.inf):
            return
        self.ratios.append(pixel_norm / term_norm)

    def get_extra_state(self) -> Tensor:
        """Return the latest ratios, float64, for the checkpoint."""
        return torch.tensor(list(self.ratios), dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the ratios of a checkpoint."""
        self.ratios = deque(state.tolist(), maxlen=self.ratios.maxlen)

    def describe(self) -> str:
        """Describe it for the table of the dry run: ``schedule 0:0 1000:0.1``, ``balance 0.3 (10 measurements)``."""
        parts = [] if self.constant == 1 and (self.schedule or self.balance is not None) else [f"{self.constant:g}"]
        if self.schedule is not None:
            parts.append("schedule " + " ".join(f"{i}:{w:g}" for i, w in self.schedule))
        if self.balance is not None:
            parts.append(f"balance {self.balance:g} ({self.ratios.maxlen} measurements)")
        return " x ".join(parts)


def interpolate(schedule: Sequence[tuple[int, float]], iteration: int) -> float:
    """Interpolate between sorted (iteration, value) points: linear, constant beyond both ends."""
    if iteration <= schedule[0][0]:
        return schedule[0][1]
    for (start, low), (end, high) in zip(schedule, schedule[1:], strict=False):
        if iteration < end:
            return low + (high - low) * (iteration - start) / (end - start)
    return schedule[-1][1]


class Term(nn.Module):
    """A distillation term as an option file declares it: active while its weight is above 0.

    Args:
        name: its name in ``train.distill_opt``.
        options: the loss with its keywords, taps, weights and adapter.

    Raises:
        UserError: keywords that the loss does not take, or taps and weights that do not fit its kind.
    """

    def __init__(self, name: str, options: TermOptions) -> None:
        super().__init__()
        self.name, self.where = name, f"train.distill_opt.{name}"
        self.loss = build("loss", options, self.where)  # loss_weight is the term's
        self.kind = type(self.loss).__name__
        self.weight = TermWeight(options.loss_weight)
        self.sides: str = self._trait("sides")
        ours = isinstance(self.loss, DistillLoss)
        self.listens = ours and type(self.loss).after_step is not DistillLoss.after_step
        self.student, self.teacher = self._sides(options)
        weights = options.layer_weights
        if weights is not None and (self._trait("multi") or self._trait("context")):
            raise UserError(f"{self.where}.layer_weights: {self.kind} sees all layers at once and takes none")
        if weights is not None and not any(weights):
            raise UserError(f"{self.where}.layer_weights: all are 0: the term would teach nothing")
        self.layer_weights = [1.0] * len(self.student) if weights is None else [float(w) for w in weights]
        self.adapter_options, self.downsample = options.adapter, options.downsample
        self.pooled = [1] * len(self.teacher)  # of each of the teacher's taps, where a store holds means over pixels
        self.adapters = nn.ModuleList()

    def _trait(self, key: str) -> Any:
        """Return a class attribute of the loss, or the default of those that are not ours."""
        return getattr(self.loss, key, getattr(DistillLoss, key))

    def _sides(self, options: TermOptions) -> tuple[list[str], list[str]]:
        taps = (options.student or options.at or [], options.teacher or options.at or [])
        student, teacher = ([tap] if isinstance(tap, str) else [*tap] for tap in taps)
        if self.sides != "both":
            for side in ("student", "teacher", "at"):
                if getattr(options, side) and side != self.sides and (side != "at" or self.sides == "none"):
                    raise UserError(f"{self.where}: {self.kind} has no use for `{side}`; take it out")
            return (student or [OUTPUT] if self.sides == "student" else [],
                    teacher or [OUTPUT] if self.sides == "teacher" else [])  # fmt: skip
        if bool(student) != bool(teacher):
            missing = "student" if teacher else "teacher"
            raise UserError(
                f"{self.where}: `{missing}` is missing: give a tap for each side ('output' for a network's "
                "output), or none to compare the outputs"
            )
        many = len(teacher) if len(student) == 1 else 1  # one of the student's is compared with each of the teacher's
        return (student or [OUTPUT]) * many, teacher or [OUTPUT]

    def runs(self, iteration: int) -> bool:
        """Tell whether the term has to be computed: its weight is not 0, or not 0 once its balance is measured."""
        if not self.reaches_student():
            return True
        return self.weight.planned(iteration) != 0 and (self.weight.wants_measure() or self.weight.at(iteration) != 0)

    def weight_at(self, iteration: int, balanced: bool = True) -> float:
        """Return the weight of the term; 1 while its loss trains its own parts only.

        Args:
            iteration: from 1.
            balanced: False leaves the balance out: the student does not train, and there is nothing to balance with.
        """
        if not self.reaches_student():
            return 1.0
        return self.weight.at(iteration) if balanced else self.weight.planned(iteration)

    def reaches_student(self) -> bool:
        """Tell whether the term has a gradient on the student now."""
        return bool(self._trait("reaches_student"))

    def reached(self, student: list[Feature], value: Tensor) -> bool:
        """Tell whether what it taps of the student, or its value where it taps nothing, carries a gradient."""
        taps = [t for feature in student for t in feature.tensors] or [value]
        return not self.reaches_student() or any(t.requires_grad for t in taps)

    def waits_beyond(self, total: int) -> str:
        """Say why the term never reaches the student in ``total`` iterations; empty where it does."""
        steps = self._trait("pretrain_iters")
        if steps < total:
            return ""
        return f"{self.where}: its pretrain_iters ({steps}) are not over by total_iter ({total}): it teaches nothing"

    def needs_teacher(self) -> bool:
        """Tell whether it taps the teacher's network, not the batch alone."""
        return any(name not in DATA for name in self.teacher)

    def asks_context(self) -> bool:
        """Tell whether its loss is given a Context."""
        return bool(self._trait("context"))

    def needs_live_teacher(self) -> bool:
        """Tell whether its loss runs the teacher itself."""
        return bool(self._trait("live_teacher"))

    def setup(self, student: list[Feature], teacher: list[Feature], context: Context) -> list[TermReport]:
        """Build adapters and what the loss needs from the features of a dry run, and try the loss on them.

        Raises:
            UserError: shapes that cannot be aligned or compared, a loss that gives the student no gradient.
        """
        if self.sides != "both":
            self.adapters = nn.ModuleList(nn.Identity() for _ in student)
        else:
            self.adapters = nn.ModuleList(
                self._adapter(i, *self._pair(i, s, t)) for i, (s, t) in enumerate(zip(student, teacher, strict=True))
            )
        dtype = torch.promote_types(context.lq.dtype, torch.float32)
        self.adapters.to(context.lq.device, dtype)
        ours, theirs = self._arranged(student, teacher)
        if isinstance(self.loss, DistillLoss):
            try:
                self.loss.setup([_shape(v) for v in ours], [_shape(v) for v in theirs])
                if self.asks_context():
                    self.loss.begin(context)
            except UserError as error:
                raise UserError(f"{self.where}: {error}") from None
            self.loss.to(context.lq.device, dtype)
        self._try(student, teacher, context)
        return [self._row(layer, student, teacher) for layer in range(max(len(student), len(teacher), 1))]

    def _row(self, layer: int, student: list[Feature], teacher: list[Feature]) -> TermReport:
        adapter = self.adapters[layer] if student else None
        weight = self.layer_weights[layer] if layer < len(self.layer_weights) else 1.0
        factor = self.weight.describe() + (f" x {weight:g}" if weight != 1 else "")
        ours, theirs = (taps[layer] if taps else "-" for taps in (self.student, self.teacher))
        mine, other = (text_of(features[layer]) if features else "-" for features in (student, teacher))
        adapted = adapter.describe() if isinstance(adapter, Adapter) else "-"
        return TermReport(self.name, self.kind, ours, theirs, mine, other, adapted, factor)

    def _adapter(self, layer: int, student: Feature, teacher: Feature) -> nn.Module:
        if isinstance(student.value, tuple) or isinstance(teacher.value, tuple):
            if len(student.tensors) != len(teacher.tensors):
                raise UserError(
                    f"{self._layer(layer)}: the student records {len(student.tensors)} tensors, the "
                    f"teacher {len(teacher.tensors)}: tap modules that return as many"
                )
            return nn.Identity()
        align = {key: self._trait(key) for key in ("align_channels", "align_size")}
        shapes = student.value.shape, teacher.value.shape
        return build_adapter(self.adapter_options, *shapes, where=self._layer(layer), **align) or nn.Identity()

    def _layer(self, layer: int) -> str:
        taps = f"{self.student[layer]} <- {self.teacher[layer]}"
        return f"{self.where} ({taps})"

    def _arranged(self, student: list[Feature], teacher: list[Feature]) -> tuple[list[Value], list[Value]]:
        """Arrange what the loss gets, layer by layer: same frames, adapted, in its dtype, as frames or clips."""
        ours, theirs = [], []
        if self.sides == "teacher":
            theirs = [self._prepared(feature).arranged(self._trait("clip")) for feature in teacher]
        for layer, feature in enumerate(student):
            if self.sides == "student":
                feature = self._prepared(feature)
            else:
                feature, target = self._pair(layer, feature, teacher[layer])
                theirs.append(target.arranged(self._trait("clip")))
            adapter = self.adapters[layer]
            if isinstance(adapter, Adapter):
                height, width = target.tensors[0].shape[-2:]
                feature = feature.map(_float).map(partial(adapter, size=(height, width)))
            ours.append(feature.arranged(self._trait("clip")))
        return ours, theirs

    def _pair(self, layer: int, student: Feature, teacher: Feature) -> tuple[Feature, Feature]:
        student, teacher = same_frames(student, teacher, self._layer(layer))
        return self._prepared(student), self._prepared(teacher, self.pooled[layer])

    def _prepared(self, feature: Feature, pooled: int = 1) -> Feature:
        feature = feature if self._trait("native_dtype") else feature.map(_float)
        side = self.downsample // pooled
        if side == 1:
            return feature
        for maps in feature.tensors:
            if maps.dim() != 4 or min(maps.shape[-2:]) < side:
                raise UserError(f"{self.where}.downsample: {side} pixels do not fit a tap of shape {tuple(maps.shape)}")
        return feature.map(partial(F.avg_pool2d, kernel_size=side))

    def forward(self, student: list[Feature], teacher: list[Feature], context: Context) -> Tensor:
        """Return the unweighted value, a scalar: over all layers at once or summed with the layer weights."""
        if isinstance(self.loss, DistillLoss) and student:
            self.loss.check_samples(min(len(feature.tensors[0]) for feature in (*student, *teacher)))
        return self._value(student, teacher, context)

    def _value(self, student: list[Feature], teacher: list[Feature], context: Context) -> Tensor:
        ours, theirs = self._arranged(student, teacher)
        alone = self.sides == "student"
        if self._trait("context"):
            context = replace(context, taps=tuple(self.teacher), student_taps=tuple(self.student))
            return scalar(self.loss(*(side for side in (ours, theirs) if side), context))
        if self._trait("multi"):
            return scalar(self.loss(ours) if alone else self.loss(ours, theirs))
        total: Tensor | None = None
        for layer, weight in enumerate(self.layer_weights):
            if weight == 0:
                continue
            value = self.loss(ours[layer]) if alone else self.loss(ours[layer], theirs[layer])
            value = scalar(value) * weight if weight != 1 else scalar(value)
            total = value if total is None else total + value
        assert total is not None
        return total

    def _try(self, student: list[Feature], teacher: list[Feature], context: Context) -> None:
        leaves = [s.map(lambda t: t.detach().requires_grad_(t.is_floating_point())) for s in student]
        inputs = [t for leaf in leaves for t in leaf.tensors]
        inputs += [p for p in context.network.parameters() if p.requires_grad]
        with undisturbed(self), undisturbed(context.network), fork_rng(context.lq):
            features = [*student, *teacher]
            compute = partial(self._value, leaves, teacher, context)
            try_loss(self.where, self.kind, features, compute, inputs if self.reaches_student() else [])


def _float(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t


def _shape(value: Value) -> Any:
    return tuple(v.shape for v in value) if isinstance(value, tuple) else value.shape
