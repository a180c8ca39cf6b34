"""Checks options against the classes that they name: the one part of the options that needs torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdsr_arch import registry
from kdsr_arch.errors import UserError, nearest
from kdsr_arch.options.schema import NetworkOptions, Options, ValOptions
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.options.schema_train import DATA, LossOptions, OptimizerOptions, TrainOptions, WeightOptions
from kdsr_arch.options.section import Component, Fault, Section, parse_section
from kdsr_arch.registry import Keywords, is_basicsr, is_ours, keyword_faults, keywords_of

# the option keys that BasicSR's data sets and models read, by type; written by scripts/basicsr_keys.py
BASICSR_KEYS = json.loads(Path(__file__).with_name("basicsr_keys.json").read_text(encoding="utf-8"))
_SCALE_KEYWORDS = ("upscale", "scale", "upscale_factor")


def registered(kind: str, name: Any) -> Any:
    """Return the registered object of that kind and name, or None."""
    try:
        return registry.lookup(kind, name)
    except UserError:
        return None


def _type_extras(opt: Options, unread: Mapping[str, str]) -> Iterator[Fault]:
    """Make sections of the `network_*`, `optim_*` and `*_opt` whose names the schema leaves open."""
    forms = (("", "network_", "", NetworkOptions), ("train.", "optim_", "", OptimizerOptions))
    for prefix, start, end, cls in (*forms, ("train.", "", "_opt", LossOptions)):
        section: Section | None = opt.train if prefix else opt
        extra = (section.model_extra if section is not None else None) or {}
        for key, value in extra.items():
            if key.startswith(start) and key.endswith(end) and value is not None and f"{prefix}{key}" not in unread:
                extra[key], faults = parse_section(cls, value, [*prefix.split(".")[:-1], key])
                yield from faults


# ---------------------------------------------------------------------------------------- keys that depend on a class


def _distills(model: Any) -> bool:
    """Tell whether a model is one of our distillation models, or a user's derived from them."""
    return getattr(model, "distills", False)


def reads_known_keys(model: Any) -> bool:
    """Tell whether the keys that a model reads are known: BasicSR's and ours, not a user's class, wherever it lies."""
    own = [base.__module__ for base in model.__mro__ if "distills" in vars(base)]
    return is_basicsr(model) or model.__module__ in own


def _model_faults(opt: Options) -> Iterator[Fault]:
    """Report an unknown model type, and keys that the model does not read. A user's model may read any key."""
    model = None
    try:
        model = registry.lookup("model", opt.model_type)
    except UserError as error:
        yield "model_type", str(error)
    if model is not None and not reads_known_keys(model):
        return
    models = BASICSR_KEYS["models"]
    read = {key for name in ([opt.model_type] if model is not None else models) for key in models.get(name, ())}
    for prefix, section in (("", opt), ("train.", opt.train), ("val.", opt.val)):
        if section is not None:
            yield from _unread_keys(section, prefix, read, opt.model_type if model is not None else None)


_IDLE = {"train.net_d_iters": 1, "train.net_d_init_iters": 0, "train.dcn_lr_mul": 1, "train.flow_lr_mul": 1}
"""Values that say what happens anyway: BasicSR's files also give them to models that do not read the key."""


def _unread_keys(section: Section, prefix: str, read: set[str], model: str | None) -> Iterator[Fault]:
    documented = type(section).model_fields
    known = {name for name, field in documented.items() if model is None or not field.json_schema_extra}
    known |= {key.removeprefix(prefix) for key in read if key.startswith(prefix)}
    for key in [*section.model_fields_set & set(documented), *(section.model_extra or {})]:
        if key in documented and key not in known:
            if getattr(section, key) not in (None, _IDLE.get(f"{prefix}{key}")):
                yield f"{prefix}{key}", f"{model} does not read this key"
        elif key not in known and not (model is None and not prefix and re.fullmatch(r"network_\w+", key)):
            yield f"{prefix}{key}", f"unknown key{nearest(key, known)}"


def dataset_keys(cls: Any) -> set[str] | None:
    """Return the keys that `datasets.*` may have for a data set class, None if it may have any."""
    loader = set(DatasetOptions.own)
    if is_basicsr(cls):  # BasicSR's own files name some keys with classes that do not read them
        return loader.union(*BASICSR_KEYS["data sets"].values())
    keywords = keywords_of(cls)
    if keywords.open or registry.wants_mapping(cls, DatasetOptions.model_fields):
        return None
    return loader | set(keywords.parameters) - ({"phase"} if is_ours(cls) else set())


def own_keys(name: Any) -> set[str] | None:
    """Return the keys that a data set class of the user's reads, None where it may read any; of others nothing."""
    cls = registered("data set", name)
    return set() if cls is None or is_basicsr(cls) or is_ours(cls) else dataset_keys(cls)


def _known_dataset_keys(dataset: DatasetOptions) -> set[str] | None:
    """Return the keys that a data set may have; for an unknown class, those that any class reads."""
    cls = registered("data set", dataset.type)
    if cls is None:
        return set(DatasetOptions.model_fields).union(*BASICSR_KEYS["data sets"].values())
    known = dataset_keys(cls)
    for part in dataset.datasets or ():  # the keys of a mixture are the defaults of its parts
        of_part = _known_dataset_keys(part)
        known = None if known is None or of_part is None else known | of_part
    return known


def _dataset_faults(opt: Options, dataset: DatasetOptions, key: str) -> Iterator[Fault]:
    cls, known = None, _known_dataset_keys(dataset)
    try:
        cls = registry.lookup("data set", dataset.type)
    except UserError as error:
        if isinstance(dataset.type, str):  # the schema reports other types
            yield f"{key}.type", str(error)
    who = f" of {dataset.type}" if cls is not None else ""
    for name in [*dataset.model_fields_set, *(dataset.model_extra or {})]:
        if known is not None and name not in known:
            yield f"{key}.{name}", f"unknown key{who}{nearest(name, known)}"
    if dataset.num_frame is not None and "Recurrent" not in (dataset.type or ""):
        yield from _window_faults(opt, dataset.num_frame, key)
    backend = (dataset.io_backend.type if dataset.io_backend else None) or "disk"
    for name in ("dataroot_gt", "dataroot_lq") if is_basicsr(cls) else ():  # ours find LMDB out by themselves
        root = getattr(dataset, name)
        if isinstance(root, list):
            yield (
                f"{key}.{name}",
                f"must be one folder: {dataset.type} takes no list; ImagePairDataset, ClipDataset do",
            )
        if isinstance(root, str) and root.rstrip("/").endswith(".lmdb") != (backend == "lmdb"):
            expected = "end in .lmdb" if backend == "lmdb" else "not end in .lmdb (or set io_backend.type: lmdb)"
            yield f"{key}.{name}", f"must {expected}, as io_backend.type is {backend}"


def _window_faults(opt: Options, frames: int, key: str) -> Iterator[Fault]:
    """Compare the window of a data set with those of the networks."""
    exact = is_basicsr(registered("model", opt.model_type))  # only our models cut a window out of a larger one
    for name, spec in (("network_g", opt.network_g), ("network_t", opt.network_t)):
        window = _number(spec, "num_frame")
        if window is not None and (frames < window or (exact and frames != window)):
            yield f"{key}.num_frame", f"is {frames}, but {name} ({spec.type if spec else ''}) sees {window:g} frames"


# -------------------------------------------------------------------------------------- constructors and their keywords


_PLACES = (("train.", TrainOptions), ("val.", ValOptions), ("", Options))


def _spec_faults(kind: str, spec: Component | None, key: str) -> Iterator[Fault]:
    """Report an unknown type, and keywords that its class does not take, lacks or cannot use."""
    if spec is None or not isinstance(spec.type, str):
        return  # the schema reports it
    keywords = spec.keywords()
    try:
        thing = registry.lookup(kind, spec.type, keywords)
    except UserError as error:
        yield f"{key}.type", str(error)
        return
    keywords |= dict.fromkeys(spec._at_fault - spec.own)  # not missing: the schema reports them
    for name, sentence in keyword_faults(thing, keywords, spec.type, spec.own):
        place = next((place for place, section in _PLACES if name in section.model_fields), None)
        misplaced = place is not None and name not in keywords_of(thing).parameters and name not in spec.own
        yield f"{key}.{name}", f"{sentence}; there is an option {place}{name}" if misplaced else sentence


def _number(spec: Component | None, keyword: str) -> float | None:
    """Return a keyword of a network, from the option file or by default; None if it is no number."""
    cls = registered("network", spec.type) if spec else None
    keywords = keywords_of(cls) if cls is not None else Keywords({})
    value = spec.keywords().get(keyword, keywords.default(keyword)) if spec else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def scale_faults(opt: Options) -> Iterator[Fault]:
    """Report networks built for another scale than the option file's."""
    for name, spec in (("network_g", opt.network_g), ("network_t", opt.network_t)):
        for keyword in _SCALE_KEYWORDS:
            factor = _number(spec, keyword)
            if factor is not None and opt.scale is not None and factor != opt.scale:
                yield f"{name}.{keyword}", f"is {factor:g}, but scale is {opt.scale}"


def channel_faults(opt: Options) -> Iterator[Fault]:
    """Report a student that gives other channels than it is given; of a teacher's RGB the luma may be learned."""
    for name, spec in (("network_g", opt.network_g), ("network_t", opt.network_t)):
        given, gives = (_number(spec, keyword) for keyword in ("num_in_ch", "num_out_ch"))
        if given is not None and gives is not None and (given < gives or (given != gives and name == "network_g")):
            yield f"{name}.num_out_ch", f"is {gives:g}, but num_in_ch is {given:g}: both are 3 for RGB, or 1 for luma"


def _kind_of_model_faults(opt: Options) -> Iterator[Fault]:
    """Report distillation with a model of BasicSR, or a distillation model without the scale."""
    cls, train = registered("model", opt.model_type), opt.train
    if _distills(cls):
        if opt.scale is None:
            yield "scale", "is required, but missing"
        yield from scale_faults(opt)
    elif is_basicsr(cls):
        values = {"network_t": opt.network_t, "train.distill_opt": train and train.distill_opt}
        for key, value in {**values, "train.stages": train and train.stages}.items():
            if value:
                yield key, f"{opt.model_type} does not distill; use model_type ImageDistillModel or VideoDistillModel"


def _train_faults(opt: Options, unread: Mapping[str, str]) -> Iterator[Fault]:
    values: dict[str, Any] = {**vars(opt.train), **(opt.train.model_extra or {})}
    for name, spec in values.items():
        if isinstance(spec, OptimizerOptions | LossOptions) and f"train.{name}" not in unread:
            yield from _spec_faults("loss" if isinstance(spec, LossOptions) else "optimizer", spec, f"train.{name}")
    pixel = opt.train.pixel_opt
    if pixel and isinstance(pixel.loss_weight, WeightOptions) and is_basicsr(registered("model", opt.model_type)):
        yield "train.pixel_opt.loss_weight", f"must be a number: {opt.model_type} takes no schedule"
    yield from _spec_faults("scheduler", opt.train.scheduler, "train.scheduler")
    for name, term in opt.train.distill_opt.items():
        yield from _spec_faults("loss", term, f"train.distill_opt.{name}")
        loss, sides = registered("loss", term.type), [term.teacher] if isinstance(term.teacher, str) else term.teacher
        alone = getattr(loss, "sides", "both") in ("student", "none") and not getattr(loss, "live_teacher", False)
        served = not opt.lacks("network_t") or alone
        if loss is not None and not served and not (sides and set(sides) <= set(DATA)):
            yield f"train.distill_opt.{name}", "compares with a teacher, but there is no network_t"


def component_faults(opt: Options) -> Iterator[Fault]:
    """Yield a fault for every unknown type, unknown key, and keyword that its class does not take."""
    unread = dict(_model_faults(opt))  # the contents of such a key are not checked
    yield from unread.items()
    yield from _type_extras(opt, unread)
    letters = {key.removeprefix("network_") for key in opt.networks}
    forms = ("pretrain_network", "param_key", "strict_load")  # each needs its network
    known = {*type(opt.path).model_fields, *(f"{form}_{letter}" for form in forms for letter in letters)}
    for key, value in (opt.path.model_extra or {}).items():
        if key not in known and value is not None:
            yield f"path.{key}", f"unknown key{nearest(key, known)}"
    for key, network in opt.networks.items():
        if key not in unread:
            yield from _spec_faults("network", network, key)
    for key, dataset in opt.all_datasets():
        yield from _dataset_faults(opt, dataset, key)
    if opt.train is not None:
        yield from _train_faults(opt, unread)
    for key, metric in ((opt.val.metrics if opt.val else None) or {}).items():
        yield from _spec_faults("metric", metric, f"val.metrics.{key}")
    yield from channel_faults(opt)
    yield from _kind_of_model_faults(opt)
