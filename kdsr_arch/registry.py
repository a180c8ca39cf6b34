"""The one door to BasicSR's registries, and what fills them with the classes and functions of this package."""

from __future__ import annotations

import importlib.util
import inspect
import pickle
import re
import sys
import traceback
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

from kdsr_arch import plugins
from kdsr_arch.errors import OptionErrors, UserError, nearest
from kdsr_arch.options.yaml_reader import describe
from kdsr_arch.plugins import Plugin, PluginFile

if TYPE_CHECKING:
    from kdsr_arch.options.section import Component

_ROOMS = {"archs": "_arch", "losses": "_loss", "data": "_dataset", "metrics": "_metric", "train": "_model"}


@cache
def register_all() -> tuple[PluginFile, ...]:
    """Import every registered file of the package once (``archs/*_arch.py``, ``losses/*_loss.py``, and so on), then
    the installed plug-ins, whose files are returned.

    BasicSR's own classes register as ``basicsr`` is imported.

    Raises:
        UserError: a file cannot be imported, or registers a name that is taken.
    """
    package = Path(__file__).parent
    for room, suffix in _ROOMS.items():
        for path in sorted((package / room).glob(f"*{suffix}.py")):
            with _whole(Plugin("the package", file=path)):
                importlib.import_module(f"kdsr_arch.{room}.{path.stem}")
    return _files_of(plugins.installed())


def bring_in(wanted: Iterable[Plugin]) -> tuple[PluginFile, ...]:
    """Import modules from outside the package, which register what they define.

    Returns:
        Their files and those of installed plug-ins, as they were imported.

    Raises:
        UserError: one cannot be imported, or registers a name that is taken; it then leaves nothing behind.
    """
    return tuple(dict.fromkeys([*register_all(), *_files_of(wanted)]))


def _files_of(wanted: Iterable[Plugin]) -> tuple[PluginFile, ...]:
    files: list[PluginFile] = []
    for plugin in wanted:
        with _whole(plugin):
            files += plugins.load(plugin)
    return tuple(files)


@contextmanager
def _whole(plugin: Plugin) -> Iterator[None]:
    """Import a module wholly, or with one sentence not at all."""
    modules, registered = set(sys.modules), [{*registry.keys()} for registry in _REGISTRIES.values()]
    try:
        yield
    except (Exception, SystemExit) as error:  # whatever a user's file does
        reason = _twice(error) or plugins.reason_of(error)
        plugins.forget(plugin, modules)
        for registry, before in zip(_REGISTRIES.values(), registered, strict=True):
            left = [
                name for name, thing in iter(registry) if name not in before and thing.__module__ not in sys.modules
            ]
            for name in left:
                del registry._obj_map[name]
        if plugins.is_missing(error, plugin):
            raise UserError(f"{plugin.why}: there is no module {plugin.name}, here or installed") from None
        raise UserError(f"{plugins.place_of(error, plugin)}: {reason} (imported for {plugin.why})") from error


def _twice(error: BaseException) -> str:
    """Say who has a name that cannot be registered again; nothing of other errors."""
    taken = re.fullmatch(r"An object named '(.+)' was already registered in '(.+)' registry!", str(error))
    for kind, registry in _REGISTRIES.items():
        if taken and registry._name == taken[2]:
            owner = registry.get(taken[1]).__module__
            file = getattr(sys.modules.get(owner), "__file__", None) or owner
            return f"there is a {kind} named '{taken[1]}' already, from {file}; give one of them another name"
    return ""


# ------------------------------------------------------------------------------- looking up, checking, constructing

_SUFFIX = "_basicsr"  # BasicSR registers some classes as NAME_basicsr, found as NAME where nobody took that name
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_REFUSALS = (  # what constructors raise over values that they were not made for, a lack of memory included
    *(TypeError, ValueError, AssertionError, LookupError, ArithmeticError, AttributeError, RuntimeError, MemoryError),
)


_REGISTRIES = {
    "network": ARCH_REGISTRY,
    "model": MODEL_REGISTRY,
    "loss": LOSS_REGISTRY,
    "data set": DATASET_REGISTRY,
    "metric": METRIC_REGISTRY,
}


def names(kind: str) -> list[str]:
    """Return every name that `type` can have.

    Args:
        kind: 'network', 'loss', 'data set', 'metric', 'model', 'optimizer' or 'scheduler'.
    """
    if kind in ("optimizer", "scheduler"):
        from kdsr_arch.optim.optimizers import optimizer_names, scheduler_names

        return optimizer_names() if kind == "optimizer" else scheduler_names()
    register_all()
    return list(dict.fromkeys(name.removesuffix(_SUFFIX) for name, _ in iter(_REGISTRIES[kind])))


def lookup(kind: str, name: Any, keywords: Iterable[str] = ()) -> Any:
    """Return the registered class (of a metric: function) of that kind and name.

    Args:
        kind: see `names`.
        name: what `type` says.
        keywords: those beside `type`; they tell apart the schedules that go by one name.

    Raises:
        UserError: there is none; the message gives the nearest names.
    """
    if isinstance(name, str) and name in names(kind):
        if kind == "optimizer":
            return getattr(torch.optim, name)
        if kind == "scheduler":
            from kdsr_arch.optim.optimizers import scheduler_class

            return scheduler_class(name, dict.fromkeys(keywords))
        registry = _REGISTRIES[kind]
        return registry.get(name if name in registry else f"{name}{_SUFFIX}")
    raise UserError(f"there is no {kind} named '{name}'{nearest(str(name), names(kind))}{_how_to_bring(kind, name)}")


def _how_to_bring(kind: str, name: Any) -> str:
    """Say where a class of the user's own goes, and which foreign networks can teach without any file."""
    if kind not in _REGISTRIES:
        return ""
    own = "; one of your own is named by imports in the option file, or by --import (docs/plugins.md)"
    if kind == "network" and importlib.util.find_spec("spandrel"):
        import spandrel

        if name in [support.architecture.id for support in spandrel.MAIN_REGISTRY.architectures()]:
            own += f"; as a teacher, {{type: spandrel, path: WEIGHTS}} reads weights of {name}"
    return own


def is_basicsr(thing: Any) -> bool:
    """Tell whether a registered class or function is BasicSR's own."""
    return str(getattr(thing, "__module__", "")).split(".")[0] == "basicsr"


def is_ours(thing: Any) -> bool:
    """Tell whether a registered class or function is of this package, not BasicSR's or the user's."""
    return str(getattr(thing, "__module__", "")).split(".")[0] == __name__.split(".")[0]


@dataclass(frozen=True)
class Keywords:
    """Keywords that a class or function takes; `open` when it takes any others as well."""

    parameters: Mapping[str, inspect.Parameter]
    open: bool = False

    @property
    def required(self) -> list[str]:
        """Names without a default."""
        return [name for name, parameter in self.parameters.items() if parameter.default is inspect.Parameter.empty]

    def default(self, name: str) -> Any:
        """Return the default of a keyword, or None."""
        parameter = self.parameters.get(name)
        return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def _by_caller(thing: Any) -> set[str]:
    """Return the parameters that the caller gives, not the option file."""
    if not isinstance(thing, type):
        return {"img", "img2", "motion"}  # a metric's
    if issubclass(thing, torch.optim.lr_scheduler.LRScheduler):
        return {"optimizer", "last_epoch"}
    return {"params"} if issubclass(thing, torch.optim.Optimizer) else set()


@cache
def keywords_of(thing: Any) -> Keywords:
    """Return the keywords that an option file can give a registered class or function, by its signature.

    ``**kwargs`` leaves the keywords open, but for BasicSR's own, which read nothing of it, and for classes of this
    package, which hand it to their base class, if that has a constructor.
    """
    is_class = isinstance(thing, type)
    parameters: dict[str, inspect.Parameter] = {}
    constructors = 0
    for owner in thing.__mro__ if is_class else (thing,):
        function = vars(owner).get("__init__") if is_class else thing
        if function is None or owner is object:
            continue
        try:
            own = list(inspect.signature(function).parameters.values())[1 if is_class else 0 :]
        except (TypeError, ValueError):  # it is not written in Python
            return Keywords(parameters, open=True)
        usable = {p.name: p for p in own if p.kind in _NAMED and p.name not in _by_caller(thing)}
        parameters = {**usable, **parameters}
        if not any(p.kind == p.VAR_KEYWORD for p in own):
            return Keywords(parameters)
        if not (is_ours(thing) and is_class):
            return Keywords(parameters, open=not is_basicsr(thing))
        constructors += 1
    return Keywords(parameters, open=constructors == 1)


def wants_mapping(thing: Any, given: Iterable[str]) -> bool:
    """Tell whether a data set's or model's constructor takes all its options as one mapping, as BasicSR's do.

    It does where its first parameter is the only one without a default, and is none of the names that are `given`.
    """
    keywords = keywords_of(thing)
    first = next(iter(keywords.parameters.values()), None)
    one = first is not None and keywords.required == [first.name] and first.name not in given
    return one and first is not None and first.kind != first.KEYWORD_ONLY


def keyword_faults(
    thing: Any, given: Mapping[str, Any], who: str, beside: Iterable[str] = ("type",)
) -> Iterator[tuple[str, str]]:
    """Yield (keyword, sentence) for each keyword that `thing` does not take, lacks, or cannot use.

    Args:
        thing: the registered class or function.
        given: keywords and their values.
        who: its name in messages.
        beside: keys that may stand beside the keywords, for messages.
    """
    keywords, others = keywords_of(thing), set(beside)
    for name, value in given.items():
        parameter = keywords.parameters.get(str(name))
        if parameter is not None:
            if wrong := _wrong_kind(value, parameter.default):
                yield str(name), wrong
        elif not keywords.open:
            yield str(name), f"unknown key of {who}{nearest(str(name), {*keywords.parameters, *others})}"
    for name in keywords.required:
        if name not in given and name not in others:
            yield name, f"is required by {who}, but missing"


def _wrong_kind(value: Any, default: Any) -> str:
    """Say that a value is not of the kind of the parameter's default, or nothing; networks rarely check."""
    if value is None or default is None or default is inspect.Parameter.empty:
        return ""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) or value in (0, 1) else f"must be true or false, not {describe(value)}"
    if isinstance(default, int | float):
        return f"must be a number, not {describe(value)}" if isinstance(value, bool | str | dict) else ""
    if isinstance(default, tuple | list):
        return f"must be a list, not {describe(value)}" if isinstance(value, str | bool) else ""
    return ""


def build(
    kind: str, spec: Component | Mapping[str, Any], key: str, *args: Any, offer: Mapping[str, Any] | None = None
) -> Any:
    """Construct the registered object that an option describes.

    Args:
        kind: see `names`; 'metric' is a function and cannot be built.
        spec: `type` and the keywords of its constructor.
        key: where it stands in the option file, for messages.
        args: handed to the constructor by position (the parameters of an optimizer, the optimizer of a scheduler).
        offer: keywords that are given where the constructor takes them and the option file does not say them.

    Raises:
        UserError: unknown type, unknown or missing keyword, or a value that the constructor refuses.
    """
    if isinstance(spec, Mapping):
        whole = deepcopy(dict(spec))
        name, given = whole.get("type", ""), {k: v for k, v in whole.items() if k != "type"}
    else:
        name, given, whole = spec.type, deepcopy(spec.keywords()), deepcopy(spec.plain())
    try:
        thing = lookup(kind, name, given)
    except UserError as error:
        raise UserError(f"{key}.type: {error}") from None
    taken = keywords_of(thing).parameters
    keywords = {k: v for k, v in (offer or {}).items() if k in taken and v is not None} | given
    if kind in ("data set", "model") and wants_mapping(thing, keywords):
        return _construct(thing, (*args, {**(offer or {}), **whole}), {}, key, name)
    faults = [f"{key}.{keyword}: {wrong}" for keyword, wrong in keyword_faults(thing, keywords, name)]
    if faults:
        raise UserError(faults[0]) if len(faults) == 1 else OptionErrors(faults)
    return _construct(thing, args, keywords, key, name)


def _place(error: BaseException, thing: Any) -> str:
    """Say where a user's class raised an error, which its text alone rarely tells."""
    if is_ours(thing) or is_basicsr(thing):
        return ""
    file = getattr(sys.modules.get(thing.__module__), "__file__", None)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({type(error).__name__} in {file}, line {frames[-1].lineno})" if frames else ""


def _construct(thing: Any, args: Iterable[Any], keywords: Mapping[str, Any], key: str, name: str) -> Any:
    try:
        return thing(*args, **keywords)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    except _REFUSALS as error:
        section = next((arg for arg in args if isinstance(arg, Mapping)), None)
        if section is not None and isinstance(error, KeyError) and error.args[0] not in (*section, *section.values()):
            raise UserError(f"{key}: {name} needs the key {error}, which is missing") from None
        raise UserError(f"{key}: {name} refuses these values: {error}{_place(error, thing)}") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{key}: {name} is given a file that is damaged, or holds objects other than tensors; not loaded, as they "
            "may run code"
        ) from None
    except (OSError, EOFError, zipfile.BadZipFile) as error:  # of a file that its constructor reads
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        reason = where + " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
        raise UserError(f"{key}: {name} cannot be built from these values: {reason}") from None
