"""Checks type names and keywords against the registries: the one part of the options that needs torch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from typing import Any

from kdsr_arch import registry
from kdsr_arch.errors import UserError, nearest
from kdsr_arch.options.faults import schema_faults
from kdsr_arch.options.schema import NetworkOptions, Options, PathOptions, ValOptions
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.options.schema_train import LossOptions, OptimizerOptions, TermOptions, TrainOptions
from kdsr_arch.options.signatures import Keywords, class_keywords, function_keywords, option_keys
from kdsr_arch.options.types import Section
from kdsr_arch.options.yaml_reader import describe
from kdsr_arch.registry import is_basicsr

Fault = tuple[str, str]
_METRIC_INPUTS = ("img", "img2")
_LOADER_KEYS = frozenset({  # read by the loaders and the evaluator, whatever the class
    "type", "name", "val_freq", "scale", "phase", "io_backend", "batch_size_per_gpu", "num_worker_per_gpu",
    "dataset_enlarge_ratio", "prefetch_mode", "num_prefetch_queue", "pin_memory", "persistent_workers",
    "skip_first", "skip_last", "center_frame_only", "prepare",
})  # fmt: skip


def lookup(kind: str, name: Any) -> Any:
    """The registered object of that kind and name, or None."""
    try:
        return registry.lookup(kind, name)
    except UserError:
        return None


def of(values: Any, key: str) -> dict[str, Any]:
    """A mapping below `values`; empty where there is none or it is something else (the schema tells that)."""
    found = values.get(key) if isinstance(values, dict) else None
    return found if isinstance(found, dict) else {}


def _find(kind: str, spec: Mapping[str, Any], key: str) -> tuple[Any, list[Fault]]:
    name = spec.get("type")
    if not isinstance(name, str):
        return None, []  # the schema tells that
    try:
        return registry.lookup(kind, name), []
    except UserError as error:
        return None, [(f"{key}.type", str(error))]


def _wrong_kind(value: Any, parameter: inspect.Parameter) -> str:
    """A sentence when a value cannot be of the kind that a parameter's default has; networks rarely check."""
    default = parameter.default
    if value is None or default is None or default is inspect.Parameter.empty:
        return ""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) or value in (0, 1) else f"must be true or false, not {describe(value)}"
    if isinstance(default, int | float):
        return f"must be a number, not {describe(value)}" if isinstance(value, bool | str | dict) else ""
    if isinstance(default, tuple | list):
        return f"must be a list, not {describe(value)}" if isinstance(value, str | bool) else ""
    return ""


def keyword_faults(
    spec: Mapping[str, Any], keywords: Keywords, who: str, key: str, also: Iterable[str] = ()
) -> Iterator[Fault]:
    """Keywords of a `spec` that `who` does not take, lacks, or cannot use."""
    taken = {"type", *also}
    for name, value in spec.items():
        parameter = keywords.parameters.get(name)
        if parameter is not None and name not in also:
            wrong = _wrong_kind(value, parameter)
            if wrong:
                yield f"{key}.{name}", wrong
        elif name not in taken and not keywords.open:
            yield f"{key}.{name}", f"unknown key of {who}{nearest(name, {*keywords.parameters, *taken})}"
    for name in keywords.required:
        if name not in spec and name not in also:
            yield f"{key}.{name}", f"is required by {who}, but missing"


def _class_spec(kind: str, spec: Any, key: str, also: Iterable[str] = ()) -> Iterator[Fault]:
    """A registered class and its keywords."""
    if not isinstance(spec, dict):
        return
    cls, faults = _find(kind, spec, key)
    yield from faults
    if cls is not None:
        keywords = class_keywords(cls) if isinstance(cls, type) else function_keywords(cls, ())
        yield from keyword_faults(spec, keywords, spec["type"], key, also)


def _metric_faults(spec: Any, key: str) -> Iterator[Fault]:
    if not isinstance(spec, dict):
        return
    metric, faults = _find("metric", spec, key)
    yield from faults
    if metric is not None:
        yield from keyword_faults(spec, function_keywords(metric, _METRIC_INPUTS), spec["type"], key, also=("better",))


def _optimizer_faults(spec: Any, key: str) -> Iterator[Fault]:
    import torch

    from kdsr_arch.optim.optimizers import optimizer_names

    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        return
    if spec["type"] not in optimizer_names():
        yield f"{key}.type", f"there is no optimizer named '{spec['type']}'{nearest(spec['type'], optimizer_names())}"
        return
    keywords = class_keywords(getattr(torch.optim, spec["type"]))
    plain = {name: p for name, p in keywords.parameters.items() if name != "params"}
    yield from keyword_faults(spec, Keywords(plain), spec["type"], key)


def _scheduler_faults(spec: Any, key: str) -> Iterator[Fault]:
    from kdsr_arch.optim.optimizers import scheduler_class, scheduler_names

    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        return
    if spec["type"] not in {*scheduler_names(), "MultiStepLR"}:
        yield f"{key}.type", f"there is no schedule named '{spec['type']}'{nearest(spec['type'], scheduler_names())}"
        return
    keywords = class_keywords(scheduler_class(spec["type"], {k: v for k, v in spec.items() if k != "type"}))
    plain = {name: p for name, p in keywords.parameters.items() if name not in ("optimizer", "last_epoch")}
    yield from keyword_faults(spec, Keywords(plain), spec["type"], key)


def _basicsr_dataset_keys() -> set[str]:
    """Every key that some BasicSR data set reads: BasicSR's own files name some with classes that do not read them."""
    classes = [lookup("data set", name) for name in registry.names("data set")]
    return {key for cls in filter(is_basicsr, classes) for key in option_keys(cls).get("", ())}


def dataset_keys(cls: type) -> set[str]:
    """The keys that `datasets.*` may have for a data set class."""
    read = option_keys(cls).get("", frozenset())
    documented = {field for field in DatasetOptions.model_fields if any(fnmatch(field, key) for key in read)}
    own = read | documented | _LOADER_KEYS | DatasetOptions.ignored
    return set(own | _basicsr_dataset_keys() if is_basicsr(cls) else own)


def _known_dataset_keys(spec: dict[str, Any]) -> set[str]:
    """The keys that a data set may have; without a known class, those that any of them reads."""
    cls = lookup("data set", spec.get("type"))
    if cls is None:
        return {*DatasetOptions.model_fields, *_basicsr_dataset_keys(), *DatasetOptions.ignored}
    parts = spec.get("datasets")  # a mixture: its own keys are the defaults of its parts
    mixed = [_known_dataset_keys(part) for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return dataset_keys(cls).union(*mixed)


def _dataset_faults(spec: Any, key: str) -> Iterator[Fault]:
    if not isinstance(spec, dict):
        return
    cls, faults = _find("data set", spec, key)
    yield from faults
    known, who = _known_dataset_keys(spec), f" of {spec['type']}" if cls is not None else ""
    for name in spec:
        if name not in known:
            yield f"{key}.{name}", f"unknown key{who}{nearest(str(name), known)}"
    parts = spec.get("datasets")
    for position, part in enumerate(parts if isinstance(parts, list) else ()):
        yield from schema_faults(DatasetOptions, part, (*key.split("."), "datasets", str(position)))
        yield from _dataset_faults(part, f"{key}.datasets.{position}")


def _term_faults(name: str, spec: Any, has_teacher: bool) -> Iterator[Fault]:
    key = f"train.distill_opt.{name}"
    yield from _class_spec("loss", spec, key, also=TermOptions.model_fields)
    loss = lookup("loss", spec.get("type")) if isinstance(spec, dict) else None
    served = has_teacher or getattr(loss, "sides", "both") == "student"
    if loss is not None and not served and not _compares_with_batch(spec):
        yield key, "compares with a teacher, but there is no network_t"


def _compares_with_batch(spec: Mapping[str, Any]) -> bool:
    """Whether a term's other side is the batch itself (`teacher: lq` or `gt`), which needs no teacher."""
    from kdsr_arch.distill.taps import DATA

    other = spec.get("teacher")
    names = [other] if isinstance(other, str) else other
    return isinstance(names, list) and bool(names) and all(name in DATA for name in names)


def core_keys(section: type[Section]) -> set[str]:
    """The keys of a section that every model type takes."""
    marked = {name: field.json_schema_extra for name, field in section.model_fields.items()}
    return {
        name for name, extra in marked.items() if not (isinstance(extra, dict) and "only_with" in extra)
    } | section.ignored


def model_keys(cls: type | None, section: type[Section], name: str) -> set[str]:
    """The keys of section `name` of the options ('' is the top) with a model type."""
    if cls is None:
        return set(section.model_fields) | section.ignored
    return core_keys(section) | set(option_keys(cls).get(name, ()))


def _section_faults(values: dict[str, Any], section: type[Section], name: str, model: Any, who: str) -> Iterator[Fault]:
    known = model_keys(model, section, name)
    for key in values:
        if key in known or (name == "" and re.fullmatch(r"network_\w+", str(key)) and model is None):
            continue
        dotted = f"{name}.{key}" if name else str(key)
        if key in section.model_fields:
            yield dotted, f"{who} does not read this key"
        else:
            yield dotted, f"unknown key{nearest(str(key), known)}"


def _path_faults(opt: dict[str, Any]) -> Iterator[Fault]:
    """`pretrain_network_X`, `param_key_X` and `strict_load_X` need a `network_X`."""
    letters = {str(key).removeprefix("network_") for key in opt if str(key).startswith("network_")}
    forms = ("pretrain_network", "param_key", "strict_load")
    known = {*PathOptions.model_fields, *(f"{form}_{letter}" for form in forms for letter in letters)}
    for key, value in of(opt, "path").items():
        if key not in known and value is not None:
            yield f"path.{key}", f"unknown key{nearest(str(key), known)}"


def _loose_specs(opt: dict[str, Any]) -> Iterator[Fault]:
    """`network_X`, `optim_X` and `X_opt` whose names the schema leaves open have the form of those it knows."""
    for key, value in opt.items():
        if str(key).startswith("network_") and key not in Options.model_fields:
            yield from schema_faults(NetworkOptions, value, (str(key),))
    for key, value in of(opt, "train").items():
        if key in TrainOptions.model_fields or value is None:
            continue
        if str(key).startswith("optim_"):
            yield from schema_faults(OptimizerOptions, value, ("train", str(key)))
        elif str(key).endswith("_opt"):
            yield from schema_faults(LossOptions, value, ("train", str(key)))


def _train_faults(opt: dict[str, Any]) -> Iterator[Fault]:
    train = of(opt, "train")
    owned = () if is_basicsr(lookup("model", opt.get("model_type"))) else ("loss_weight",)  # ours weigh by schedule too
    for key, spec in train.items():
        if str(key).startswith("optim_"):
            yield from _optimizer_faults(spec, f"train.{key}")
        elif str(key).endswith("_opt") and key != "distill_opt":
            yield from _class_spec("loss", spec, f"train.{key}", also=owned if key == "pixel_opt" else ())
    yield from _scheduler_faults(train.get("scheduler"), "train.scheduler")
    for name, spec in of(train, "distill_opt").items():
        yield from _term_faults(str(name), spec, bool(opt.get("network_t")))


def _known_keys(train: dict[str, Any], model: Any) -> dict[str, Any]:
    known = model_keys(model, TrainOptions, "train")
    return {key: value for key, value in train.items() if key in known}


def known_faults(opt: dict[str, Any]) -> Iterator[Fault]:
    """(dotted key, sentence) for every unknown type name, unknown key and keyword that its class does not take."""
    model, faults = _find("model", {"type": opt.get("model_type")}, "")
    yield from (("model_type", sentence) for _, sentence in faults)
    who = str(opt.get("model_type"))
    yield from _section_faults(opt, Options, "", model, who)
    yield from _section_faults(of(opt, "train"), TrainOptions, "train", model, who)
    yield from _section_faults(of(opt, "val"), ValOptions, "val", model, who)
    yield from _path_faults(opt)
    opt = {**opt, "train": _known_keys(of(opt, "train"), model)}  # what is in an unknown key is told no second fault
    yield from _loose_specs(opt)
    for key, spec in opt.items():
        if str(key).startswith("network_"):
            yield from _class_spec("network", spec, str(key))
    for key, spec in of(opt, "datasets").items():
        yield from _dataset_faults(spec, f"datasets.{key}")
    yield from _train_faults(opt)
    for key, spec in of(of(opt, "val"), "metrics").items():
        yield from _metric_faults(spec, f"val.metrics.{key}")
