"""Distillation of any two networks: as one call, and as a task for a loop of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdsr_arch.data.loader import to_device
from kdsr_arch.device import own_gradients, own_precision, pick_device
from kdsr_arch.distill.inputs import check_batch
from kdsr_arch.distill.taps import Feature
from kdsr_arch.distill.task import DistillTask
from kdsr_arch.distill.trial import scalar, told
from kdsr_arch.errors import OptionErrors, UserError, first_line, nearest
from kdsr_arch.infer.pixels import beyond_white
from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.options.schema import TeacherOptions
from kdsr_arch.options.schema_train import TrainOptions
from kdsr_arch.options.section import parse_section
from kdsr_arch.options.yaml_reader import describe
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import build, lookup
from kdsr_arch.train.distill_model import DistillModel
from kdsr_arch.train.steps import Steps

Terms = Mapping[str, Mapping[str, Any]]
"""Distillation terms by name, each as in ``train.distill_opt`` of an option file."""
_UNKNOWN = 10**9  # iterations of a loop that does not say how many
_FURTHER = (  # keys of `train` that `distill` takes as they are
    *("scheduler", "warmup_iter", "ema_decay", "amp", "accumulation", "grad_clip", "stages", "ratio_freq"),
    *("channels_last", "compile"),
)


def make_task(
    student: nn.Module,
    teacher: nn.Module | None,
    terms: Terms,
    sample: Any,
    *,
    pixel: str | Mapping[str, Any] | None = "L1Loss",
    scale: int | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
    amp: str = "no",
    compile: bool = False,
) -> DistillTask:
    """Make a task that gives the losses of a distillation, for a training loop of one's own.

    Args:
        student: the network to train, as it is; its state dict stays its own.
        teacher: its teacher, which is frozen and put into evaluation mode; None where no term needs one.
        terms: by name, as in ``train.distill_opt``: ``{"features": {"type": "FAKDLoss", "at": "body"}}``.
        sample: a batch on the device that is trained on: ``(lq, gt)`` or ``{"lq": ..., "gt": ...}``, images
            (B, C, h, w) or clips (B, T, C, h, w), floats in [0, 1], RGB.
        pixel: the loss between the student's output and the ground truth, as in ``train.pixel_opt``; None: none.
        scale: of both networks; that of the sample by default.
        stages: as in ``train.stages``; the forward of an iteration freezes and thaws what its stage says.
        amp: precision in which both networks run: 'no', 'bf16' or 'fp16'; losses are float32.
        compile: run the student through torch.compile.

    Raises:
        UserError: a term that cannot be, a tap that does not exist, shapes that cannot be aligned.
    """
    with own_gradients():
        batch, total = check_batch(sample), _length_of(stages)
    given = {"optim_g": {"type": "Adam"}, "pixel_opt": _loss_spec(pixel), "distill_opt": terms, "stages": stages}
    options = _train_options({**given, "total_iter": total or _UNKNOWN, "amp": amp, "compile": compile})
    _check_networks(student, teacher, options.amp)
    _check_range(batch)
    precision = TeacherOptions(amp=options.amp)
    factor = scale_of(batch) if scale is None else scale
    with own_gradients():
        return DistillTask(student, teacher, options, batch, scale=factor, teacher_options=precision).train()


def _length_of(stages: Any) -> Any:
    """Sum the lengths of stages as far as there are any; what is wrong with the others is told with their keys."""
    entries = stages if isinstance(stages, (list, tuple)) else ()
    lengths = [stage.get("iters") for stage in entries if isinstance(stage, Mapping)]
    return sum(length for length in lengths if isinstance(length, Real))


def _check_networks(student: nn.Module, teacher: nn.Module | None, amp: str) -> None:
    """Refuse what is no network, or cannot be trained; a teacher that is the student would be frozen with it."""
    for key, net in (("student", student), ("teacher", teacher)):
        if not isinstance(net, nn.Module) and not (net is None and key == "teacher"):
            raise UserError(
                f"{key}: expected a network (torch.nn.Module), not {describe(net)}; kdsr.load(WEIGHTS).network is that "
                "of a file or name"
            )
        if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise UserError(
                f"{key}: give the network itself, not {type(net).__name__} of it, and wrap the task that is made: what "
                "is trained along with the student, such as adapters, would differ from process to process"
            )
    own = {id(p) for p in student.parameters()}
    if teacher is not None and any(id(p) in own for p in teacher.parameters()):
        raise UserError("student and teacher share parameters: give a copy as the teacher (copy.deepcopy(student))")
    if any(p.is_inference() for p in student.parameters()):
        raise UserError("the student was made in torch.inference_mode and cannot be trained: make it outside of that")
    kinds = [next((p.dtype for p in net.parameters()), None) for net in (student, teacher) if net is not None]
    ours, theirs = kinds[0], kinds[-1]
    if theirs not in (None, ours) and (amp == "no" or torch.float64 in (ours, theirs)):
        raise UserError(
            f"the student computes in {ours}, the teacher in {theirs}: bring both into one precision, such as by "
            "teacher.float()"
        )


def _check_range(batch: Mapping[str, Any]) -> None:
    """Refuse images in 0 to 255; values that are not finite are told with the iteration."""
    for key in ("lq", "gt"):
        if wrong := beyond_white(batch[key].nan_to_num(0.0, 0.0, 0.0)):
            raise UserError(f"{key}: {wrong}")


def scale_of(batch: Mapping[str, Any]) -> int:
    """Return how many times wider the ground truth of a batch is than its LR images.

    Raises:
        UserError: it is not so many times as wide and high.
    """
    lq, gt = (batch[key].shape[-2:] for key in ("lq", "gt"))
    scale = max(gt[0] // lq[0], 1)
    if (lq[0] * scale, lq[1] * scale) != tuple(gt):
        raise UserError(f"gt {tuple(gt)} is no whole multiple of lq {tuple(lq)}: cut it to lq times the scale")
    return scale


def _loss_spec(loss: str | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return {"type": loss} if isinstance(loss, str) else loss


def _train_options(values: Mapping[str, Any]) -> TrainOptions:
    options, faults = parse_section(TrainOptions, _plain(values), ["train"])
    faults += [(f"train.{key}", sentence) for key, sentence in options.faults_below()]
    for number, stage in enumerate(options.stages):
        for key in ("gt_size", "batch_size_per_gpu"):
            if getattr(stage, key) is not None:
                faults.append((f"train.stages.{number}.{key}", "has no effect on batches of yours: take it out"))
    if faults:
        raise OptionErrors([f"{key}: {sentence}" for key, sentence in faults])
    return options


def _plain(value: Any) -> Any:
    """Copy mappings and sequences as dicts and lists, which is what option files hold; NumPy's numbers become plain."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


# ------------------------------------------------------------------------------------------------------- losses


def loss(name: str, student: Any, teacher: Any = None, **keywords: Any) -> Tensor:
    """Compute a registered loss between two feature maps, or lists of maps; a scalar with a gradient to the student.

    Args:
        name: the loss's `type` in an option file, such as ``"FAKDLoss"``; ``kdsr list losses`` lists them.
        student: what the student's tap gave: a map (N, C, H, W), or a list of them, one a layer.
        teacher: likewise; it is detached. None for a loss of the student alone.
        keywords: those of the loss.

    Raises:
        UserError: an unknown loss or keyword, or a loss that cannot be a function: one that trains parts of its own or
            runs the networks itself. `make_task` serves those.
    """
    if getattr(lookup("loss", name), "context", False):
        raise UserError(f"{name} runs the networks itself, so it is no function of two maps; give it to kdsr.make_task")
    made = build("loss", {"type": name, **keywords}, f"loss {name}")
    if teacher is None and isinstance(made, DistillLoss) and made.sides == "both":
        raise UserError(f"{name} compares with a teacher: give its maps as well")
    _check_maps(student, teacher)
    several = isinstance(student, (list, tuple))
    ours = list(student) if several else [student]
    theirs = None if teacher is None else [t.detach() for t in (teacher if several else [teacher])]
    multi = getattr(made, "multi", False)
    channels, sizes = (getattr(made, key, True) for key in ("align_channels", "align_size"))
    layers = zip(ours, theirs or (), strict=False)
    for s, t in [pair for layer in layers for pair in zip(*map(_tensors, layer), strict=False)]:
        if s.shape[:1] != t.shape[:1]:
            raise UserError(f"{name} needs maps of as many samples, got {tuple(s.shape)} and {tuple(t.shape)}")
        if (channels and s.shape[1:2] != t.shape[1:2]) or (sizes and s.shape[2:] != t.shape[2:]):
            raise UserError(
                f"{name} needs maps of one shape, got {tuple(s.shape)} and {tuple(t.shape)}: kdsr.make_task puts an "
                "adapter between them"
            )
    if isinstance(made, DistillLoss):
        counts = [len(s) for s in ours if isinstance(s, Tensor) and s.dim()]
        made.check_samples(min(counts, default=made.least_samples))
        made.setup([s.shape for s in ours], [t.shape for t in theirs or ()])
    if any(True for _ in made.parameters()):
        raise UserError(f"{name} trains parts of its own, so it is no function of two maps; give it to kdsr.make_task")
    with told(f"loss {name}", name, [Feature(value, 1) for value in (*ours, *(theirs or ()))]):
        if multi:
            return scalar(made(ours) if theirs is None else made(ours, theirs))
        pairs = [(s,) for s in ours] if theirs is None else zip(ours, theirs, strict=True)
        return torch.stack([scalar(made(*pair)) for pair in pairs]).sum()


def _tensors(layer: Any) -> tuple[Tensor, ...]:
    return Feature(layer, 1).tensors


def _check_maps(student: Any, teacher: Any) -> None:
    """Refuse what holds no tensors, and sides of different numbers of layers."""
    counts = {}
    for side, maps in (("student", student), *([] if teacher is None else [("teacher", teacher)])):
        layers = maps if isinstance(maps, (list, tuple)) else [maps]
        if not layers:
            raise UserError(f"{side}: holds no map; give one a layer")
        for layer in layers:
            if not isinstance(layer, (Tensor, tuple)):  # a tuple is what some taps record
                raise UserError(f"{side}: expected tensors, not {type(layer).__name__}; torch.as_tensor makes them")
        counts[side] = len(layers)
    if len({*counts.values()}) > 1:
        raise UserError(f"student has {counts['student']} maps, teacher {counts['teacher']}: give as many of each")


# --------------------------------------------------------------------------------------------------- the whole loop


@dataclass
class Distilled:
    """What `distill` gives.

    Attributes:
        student: the network that was given, trained, in evaluation mode.
        averaged: the average of its weights, with ``ema_decay``; else the student itself.
        history: means of the losses, and the terms' gradient ratios (``ratio/NAME``), up to an ``iteration``.
    """

    student: nn.Module
    averaged: nn.Module
    history: list[dict[str, float]] = field(default_factory=list)


def distill(
    student: nn.Module,
    teacher: nn.Module | None,
    terms: Terms,
    data: Iterable[Any],
    *,
    iterations: int,
    pixel: str | Mapping[str, Any] | None = "L1Loss",
    optimizer: Mapping[str, Any] | None = None,
    scale: int | None = None,
    device: str | torch.device = "auto",
    report_every: int = 100,
    report: Callable[[dict[str, float]], None] | None = None,
    **train: Any,
) -> Distilled:
    """Train a student under a teacher, in memory: no option file, no folder, no checkpoints.

    Args:
        student, teacher, terms, pixel, scale: see `make_task`.
        data: batches ``(lq, gt)`` or ``{"lq": ..., "gt": ...}``, such as a DataLoader of shuffled pairs, gone through
            again and again.
        iterations: steps of the optimizer.
        optimizer: an optimizer of torch by `type`, with its keywords; Adam at 1e-3 by default.
        device: 'auto' (CUDA where there is one), or any device of torch.
        report_every: iterations between two entries of the history.
        report: called with each of them.
        train: other keys of the section ``train`` of an option file: ``scheduler``, ``warmup_iter``, ``ema_decay``,
            ``amp``, ``accumulation``, ``grad_clip``, ``stages``, ``ratio_freq``, ``channels_last``, ``compile``.

    Raises:
        UserError: see `make_task`; or the data end, or a loss becomes NaN or infinite.
    """
    if unknown := [key for key in train if key not in _FURTHER]:
        raise UserError(f"distill has no keyword {unknown[0]}{nearest(unknown[0], _FURTHER)}; see help(kdsr.distill)")
    given = {
        "total_iter": iterations, "optim_g": optimizer or {"type": "Adam", "lr": 1e-3}, "pixel_opt": _loss_spec(pixel),
        "distill_opt": terms,
    }  # fmt: skip
    options = _train_options({**given, **train})
    if not isinstance(report_every, Integral) or report_every < 1:
        raise UserError(f"report_every: expected 1 iteration or more, not {describe(report_every)}")
    _check_networks(student, teacher, options.amp)
    trained = [(p, p.requires_grad) for p in student.parameters()]
    place = _place(device)
    with own_precision(place.type), own_gradients():
        batches = _Endless(data, place, options.channels_last)
        _check_range(batches.first)
        sample = {key: value[:1] for key, value in batches.first.items() if isinstance(value, Tensor)}
        factor = scale_of(sample) if scale is None else scale
        model = DistillModel.of(student, teacher, options, sample, factor, place)
        distributed.broadcast_modules(model.modules())
        loop, history = Steps(model, options, batches), list[dict[str, float]]()
        for iteration in range(1, options.total_iter + 1):
            loop.step(iteration)
            if iteration % report_every == 0 or iteration == options.total_iter:
                loop.check_finite(iteration)
                history.append({"iteration": float(iteration), **loop.figures()})
                if report is not None:
                    report(history[-1])
    for parameter, before in trained:  # the last stage may have left some of them frozen
        parameter.requires_grad_(before)
    return Distilled(student.eval(), model.inference_network(), history)


def _place(device: str | torch.device) -> torch.device:
    try:
        place = pick_device() if device == "auto" else torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:  # an assertion where torch lacks CUDA
        raise UserError(
            f"device {device!r}: cannot be used here ({first_line(error)}); 'auto' takes what there is"
        ) from None
    return place


class _Endless(Iterator[dict[str, Any]]):
    """The user's batches on a device, begun anew at their end.

    Attributes:
        first: the first batch, which is given again.
    """

    def __init__(self, data: Iterable[Any], device: torch.device, channels_last: bool) -> None:
        self._data, self._device, self._channels_last = data, device, channels_last
        if not hasattr(data, "__iter__"):
            raise UserError(
                f"data: a {type(data).__name__} gives no batches; wrap a data set in torch.utils.data.DataLoader"
            )
        self._source, self._count = iter(data), 0
        self._again: dict[str, Any] | None = None
        self.first = self._again = next(self)
        self.expand: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda batch: batch

    def __next__(self) -> dict[str, Any]:
        if self._again is not None:
            batch, self._again = self._again, None
            return batch
        drawn = next(self._source, None)
        if drawn is None:
            self._source = iter(self._data)
            drawn = next(self._source, None)
        if drawn is None:
            raise UserError(
                f"data: ended after {self._count} batches; give what can be gone through again, such as a DataLoader"
            )
        self._count += 1
        return to_device(check_batch(drawn), self._device, self._channels_last)
