"""Values that cannot work together: what neither one key's type nor one class's signature can tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kdsr_arch.errors import nearest
from kdsr_arch.options.known import Fault, lookup, of
from kdsr_arch.options.signatures import class_keywords
from kdsr_arch.registry import is_basicsr

_SCALE_KEYWORDS = ("upscale", "scale", "upscale_factor")


def number(values: dict[str, Any], key: str) -> float | None:
    """A number below `values`, or None where it is missing or something else (the schema tells that)."""
    value = values.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def numbers(values: dict[str, Any], key: str) -> list[float] | None:
    """A list of numbers below `values`, or None."""
    value = values.get(key)
    plain = isinstance(value, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    return value if plain else None


def network_value(spec: dict[str, Any], keyword: str) -> Any:
    """A constructor keyword of a network as the option file says it, or its default, or None."""
    cls = lookup("network", spec.get("type"))
    return spec.get(keyword, class_keywords(cls).default(keyword) if cls is not None else None)


def _phase_faults(opt: dict[str, Any], is_train: bool) -> Iterator[Fault]:
    datasets = opt.get("datasets")
    if not isinstance(datasets, dict):
        return
    for key in datasets:
        if not re.fullmatch(r"(train|val|test)(_\w+)?", str(key)):
            yield (
                f"datasets.{key}",
                f"must be named train, val, val_2, ..., test, test_1, ...{nearest(str(key), ('train', 'val', 'test'))}",
            )
        elif is_train and str(key).startswith("test"):
            yield f"datasets.{key}", "is for testing; name it val (or val_2, ...) to validate while training"
    if is_train and "train" not in datasets:
        yield "datasets.train", "is required to train, but missing"
    if not is_train and not any(str(key).startswith(("val", "test")) for key in datasets):
        yield "datasets.test", "is required to test, but missing"
    if is_train and isinstance(datasets.get("train"), dict) and datasets["train"].get("batch_size_per_gpu") is None:
        yield "datasets.train.batch_size_per_gpu", "is required, but missing"


def _window_faults(opt: dict[str, Any], spec: dict[str, Any], key: str) -> Iterator[Fault]:
    """The window of a data set against that of the networks. Recurrent networks take any number of frames."""
    frames = number(spec, "num_frame")
    if frames is None or "Recurrent" in str(spec.get("type")):
        return
    if frames < 1 or frames % 2 != 1:
        yield f"{key}.num_frame", f"must be odd and at least 1, got {frames:g}"
        return
    exact = is_basicsr(lookup("model", opt.get("model_type")))  # only our models cut a window out of a larger one
    for name in ("network_g", "network_t"):
        window = number({"n": network_value(of(opt, name), "num_frame")}, "n")
        if window is not None and (frames < window or (exact and frames != window)):
            yield f"{key}.num_frame", f"is {frames:g}, but {name} ({of(opt, name).get('type')}) sees {window:g} frames"


def _backend_faults(spec: dict[str, Any], key: str) -> Iterator[Fault]:
    cls = lookup("data set", spec.get("type"))
    if cls is None or not is_basicsr(cls):
        return  # ours find LMDB out by themselves
    backend = of(spec, "io_backend").get("type", "disk")
    for name in ("dataroot_gt", "dataroot_lq"):
        root = spec.get(name)
        if isinstance(root, str) and root.rstrip("/").endswith(".lmdb") != (backend == "lmdb"):
            expected = "end in .lmdb" if backend == "lmdb" else "not end in .lmdb (or set io_backend.type: lmdb)"
            yield f"{key}.{name}", f"must {expected}, as io_backend.type is {backend}"


def _dataset_specs(opt: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted key, options) of every data set, the parts of mixtures included."""
    for name, spec in of(opt, "datasets").items():
        if isinstance(spec, dict):
            yield f"datasets.{name}", spec
            parts = spec.get("datasets")
            for position, part in enumerate(parts if isinstance(parts, list) else ()):
                if isinstance(part, dict):
                    yield f"datasets.{name}.datasets.{position}", part


def _dataset_faults(opt: dict[str, Any]) -> Iterator[Fault]:
    scale = number(opt, "scale")
    for key, spec in _dataset_specs(opt):
        size = number(spec, "gt_size")
        if size and scale and scale > 0 and size % scale:
            yield f"{key}.gt_size", f"must be a multiple of scale ({scale:g}), got {size:g}"
        yield from _window_faults(opt, spec, key)
        yield from _backend_faults(spec, key)


def _network_faults(opt: dict[str, Any]) -> Iterator[Fault]:
    for name in ("network_g", "network_t"):
        window = number(of(opt, name), "num_frame")
        if window is not None and (window < 1 or window % 2 != 1):
            yield f"{name}.num_frame", f"must be odd and at least 1, got {window:g}"


def scale_faults(opt: dict[str, Any]) -> Iterator[Fault]:
    """Networks built for another scale than the option file's."""
    scale = number(opt, "scale")
    for name in ("network_g", "network_t"):
        for keyword in _SCALE_KEYWORDS:
            factor = number({"f": network_value(of(opt, name), keyword)}, "f")
            if factor is not None and scale is not None and factor != scale:
                yield f"{name}.{keyword}", f"is {factor:g}, but scale is {scale:g}"


def _scheduler_faults(train: dict[str, Any]) -> Iterator[Fault]:
    spec, total = of(train, "scheduler"), number(train, "total_iter")
    for first, second in (("periods", "restart_weights"), ("restarts", "restart_weights")):
        if spec.get("type") == "CosineAnnealingRestartLR" and first == "restarts":
            continue
        one, two = numbers(spec, first), numbers(spec, second)
        if one is not None and len(one) != len(two if two is not None else [1]):
            count = f"{len(two)} restart_weights" if two is not None else "no restart_weights"
            yield f"train.scheduler.{first}", f"has {len(one)} entries, but there are {count}"
    periods = numbers(spec, "periods")
    if periods and total and sum(periods) < total - 1:
        yield "train.scheduler.periods", f"end at iteration {sum(periods):g}, before total_iter ({total:g})"
    milestones = numbers(spec, "milestones")
    if milestones and milestones != sorted(milestones):
        yield "train.scheduler.milestones", "must rise"


def _schedule_faults(weight: Any, key: str) -> Iterator[Fault]:
    points = weight.get("schedule") if isinstance(weight, dict) else None
    if not isinstance(points, list):
        return
    if not points or any(not isinstance(point, list) or len(point) != 2 for point in points):
        yield f"{key}.schedule", "must be a list of [iteration, weight] pairs"
    elif all(isinstance(value, int | float) for point in points for value in point):
        iterations = [point[0] for point in points]
        if any(later <= earlier for earlier, later in zip(iterations, iterations[1:], strict=False)):
            yield f"{key}.schedule", "must have rising iterations"


def _term_faults(name: str, term: dict[str, Any]) -> Iterator[Fault]:
    key = f"train.distill_opt.{name}"
    if term.get("at") is not None and any(term.get(side) is not None for side in ("student", "teacher")):
        yield f"{key}.at", "stands for both taps, so `student` and `teacher` cannot be given beside it"
    sides = [term.get(side) for side in ("at", "student", "teacher")]
    counts = {len(side) if isinstance(side, list) else 1 for side in sides if side is not None}
    if len(counts) > 1:
        taps = len(sides[1]) if isinstance(sides[1], list) else 1
        yield f"{key}.teacher", f"must tap as many layers as student does ({taps})"
    weights = numbers(term, "layer_weights")
    if weights is not None and len(counts) == 1 and len(weights) != next(iter(counts)):
        yield f"{key}.layer_weights", f"has {len(weights)} entries for {next(iter(counts))} taps"
    yield from _schedule_faults(term.get("loss_weight"), f"{key}.loss_weight")


def _stage_faults(train: dict[str, Any]) -> Iterator[Fault]:
    stages, total = train.get("stages"), number(train, "total_iter")
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        return
    lengths = [number(stage, "iters") for stage in stages]
    whole = [length for length in lengths if length is not None]
    if total is not None and len(whole) == len(stages) and sum(whole) != total:
        yield "train.stages", f"sum to {sum(whole):g} iterations, but total_iter is {total:g}"
    known = ["pixel", *of(train, "distill_opt")]
    for position, stage in enumerate(stages):
        for term in stage["terms"] if isinstance(stage.get("terms"), list) else ():
            if term not in known:
                yield f"train.stages.{position}.terms", f"there is no term '{term}'{nearest(str(term), known)}"


def _balance_faults(train: dict[str, Any]) -> Iterator[Fault]:
    """A balance is against the pixel loss."""
    if "balance" in of(of(train, "pixel_opt"), "loss_weight"):
        yield "train.pixel_opt.loss_weight", "cannot be balanced: terms are balanced against the pixel loss"
    for name, term in of(train, "distill_opt").items():
        if "balance" in of(term, "loss_weight") and train.get("pixel_opt") is None:
            key = f"train.distill_opt.{name}.loss_weight"
            yield key, "is balanced against the pixel loss, but there is no train.pixel_opt"


def _train_faults(opt: dict[str, Any]) -> Iterator[Fault]:
    train = of(opt, "train")
    yield from _balance_faults(train)
    yield from _schedule_faults(of(train, "pixel_opt").get("loss_weight"), "train.pixel_opt.loss_weight")
    for name, term in of(train, "distill_opt").items():
        if isinstance(term, dict):
            yield from _term_faults(str(name), term)
    yield from _scheduler_faults(train)
    yield from _stage_faults(train)
    losses = [key for key, value in train.items() if str(key).endswith("_opt") and value is not None and value != {}]
    if train and not losses and not isinstance(train.get("pixel_opt"), dict):
        yield "train.pixel_opt", "is required, but missing: there is no loss at all"


def _model_faults(opt: dict[str, Any]) -> Iterator[Fault]:
    """BasicSR's models neither distil nor run without a schedule; ours need the scale."""
    cls, train = lookup("model", opt.get("model_type")), of(opt, "train")
    if cls is None:
        return
    if not is_basicsr(cls):
        if opt.get("scale") is None:
            yield "scale", "is required, but missing"
        yield from scale_faults(opt)
        return
    for key, value in (
        ("network_t", opt.get("network_t")),
        *((f"train.{k}", train.get(k)) for k in ("distill_opt", "stages")),
    ):
        if value:
            yield key, f"{opt['model_type']} does not distil; use model_type ImageDistillModel or VideoDistillModel"


def _keep_best_faults(opt: dict[str, Any]) -> Iterator[Fault]:
    kept = of(opt, "logger").get("keep_best")
    if kept is None:
        return
    metrics = of(of(opt, "val"), "metrics")
    if not metrics:
        yield "logger.keep_best", "needs a validation to rank by; give val.metrics"
    for name in kept if isinstance(kept, dict) and metrics else ():
        if name not in metrics:
            yield f"logger.keep_best.{name}", f"is no metric of val.metrics{nearest(str(name), metrics)}"


def value_faults(opt: dict[str, Any], is_train: bool) -> Iterator[Fault]:
    """(dotted key, sentence) for every combination of values that cannot work."""
    if is_train and not isinstance(opt.get("train"), dict) and "train" not in opt:
        yield "train", "is required to train, but missing"
    tile, overlap = number(of(opt, "val"), "tile"), number(of(opt, "val"), "tile_overlap")
    if tile is not None and tile <= (overlap if overlap is not None else 16):
        yield "val.tile", f"must be larger than tile_overlap ({overlap if overlap is not None else 16:g}), got {tile:g}"
    if is_train:
        yield from _keep_best_faults(opt)
    yield from _phase_faults(opt, is_train)
    yield from _dataset_faults(opt)
    yield from _network_faults(opt)
    yield from _train_faults(opt)
    yield from _model_faults(opt)
