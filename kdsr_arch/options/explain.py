"""Explains options: ``kdsr check --explain KEY``, and the JSON Schema for editors."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticUndefined

from kdsr_arch.errors import UserError, nearest
from kdsr_arch.options.schema import Options
from kdsr_arch.options.section import Section, section_classes, without_optional

_SCALARS = {int: "whole number", float: "number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Entry:
    """One documented option. `key` is dotted; NAME stands for a name of the user's, N for a position in a list."""

    key: str
    kind: str
    default: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}  ({self.kind}; {self.default})\n    {self.text}"


def _kind(annotation: Any) -> str:
    """Describe an annotation in words."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(args[0])
    if origin is typing.Literal:
        return " | ".join(str(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(_kind(arg) for arg in args if arg is not type(None)))
    if origin is list:
        return f"list of {_kind(args[0])}"
    if origin is dict or section_classes(annotation):
        return "mapping"
    return _SCALARS.get(annotation, str(annotation))


def entries(section: type[Section] = Options, prefix: str = "") -> Iterator[Entry]:
    """Yield every documented option, in the schema's order."""
    for name, field in section.model_fields.items():
        key, default = f"{prefix}{name}", "required" if field.is_required() else "optional"
        if field.default is not PydanticUndefined and field.default is not None:
            default = f"default {json.dumps(field.default)}"
        yield Entry(key, _kind(field.annotation), default, " ".join((field.description or "").split()))
        form = typing.get_origin(without_optional(field.annotation))
        below = {dict: f"{key}.NAME.", list: f"{key}.N."}.get(form, f"{key}.")
        for child in section_classes(field.annotation):
            if child is not section:  # the parts of a mixture are data sets themselves
                yield from entries(child, below)


def _matches(entry: Entry, key: str) -> bool:
    """Tell whether a dotted key is that entry's, or a bare name its last part."""
    return _fits(entry.key, key) if "." in key else entry.key.rpartition(".")[2] == key


def _fits(documented: str, key: str) -> bool:
    """Tell whether a dotted key is the documented one, with a name in place of NAME and a number in that of N."""
    pattern = re.escape(documented).replace("NAME", r"[^.]+").replace(r"\.N", r"\.(\d+|N)")
    return re.fullmatch(pattern, key) is not None or documented == key


def _within(section: str, known: list[Entry]) -> list[Entry]:
    """List the entries right below a section, by its name in a file or in the documentation."""
    return [entry for entry in known if section and _fits(entry.key.rpartition(".")[0], section)]


def explain(key: str) -> str:
    """Explain an option or a registered class.

    Args:
        key: a dotted key (``train.optim_g.lr``, ``train.distill_opt.spatial.loss_weight``), a bare name (``gt_size``),
            or the name of a registered class (``EDVR``), for its keywords.

    Raises:
        UserError: there is none; the message gives the nearest names.
    """
    known = list(entries())
    matching = [entry for entry in known if _matches(entry, key)]
    named = _within(key, known) if "." in key else []
    if not matching and named:  # one of the user's own names: datasets.train, val.metrics.psnr
        return "\n".join([f"{key}  (mapping)", *(f"  {entry.key}: {entry.text}" for entry in named)])
    if not matching:
        _refuse_keyword(key, known)
        return _explain_class(key, [entry.key for entry in known])
    lines = [str(entry) for entry in matching]
    if len(matching) == 1:
        lines += [f"  {entry.key}: {entry.text}" for entry in known if entry.key.startswith(f"{matching[0].key}.")]
    return "\n".join(lines)


def _refuse_keyword(key: str, known: list[Entry]) -> None:
    """Say that a key beside a `type` is a keyword of the class, unless it is nearly one of the keys beside it."""
    section, _, last = key.rpartition(".")
    beside = [entry.key.rpartition(".")[2] for entry in _within(section, known)]
    if "type" in beside and not nearest(last, beside):
        raise UserError(f"--explain {key}: may be a keyword of what {section}.type names, which --explain TYPE lists")


def keyword_lines(thing: Any) -> Iterator[str]:
    """Yield each keyword of a registered class with its default, and in a second line what the docstrings say of it."""
    from kdsr_arch.registry import keywords_of

    meanings = meanings_of(thing)
    for key, parameter in keywords_of(thing).parameters.items():
        default = "" if parameter.default is parameter.empty else f": {parameter.default!r}"
        yield f"  {key}{default}"
        if key in meanings:
            yield f"      {meanings[key]}"


def meanings_of(thing: Any) -> dict[str, str]:
    """Return what the `Args` of a class's docstring, and of those that it derives from, say of each keyword."""
    kinds = reversed(inspect.getmro(thing)) if inspect.isclass(thing) else [thing]
    meanings: dict[str, str] = {}
    for kind in kinds:
        _, _, part = inspect.cleandoc(kind.__doc__ or "").partition("\nArgs:\n")
        found = re.findall(r"^    (\w[\w, ]*): (.*(?:\n     +.*)*)", part.split("\n\n")[0], re.M)
        plain = {keys: re.sub(r":\w+:`~?", "`", " ".join(text.split()).replace("``", "`")) for keys, text in found}
        meanings |= {key: text for keys, text in plain.items() for key in keys.split(", ")}
    return meanings


def _explain_class(name: str, keys: list[str]) -> str:
    """List the keywords of a registered class, or refuse the name with the nearest ones."""
    from kdsr_arch import registry
    from kdsr_arch.options.components import BASICSR_KEYS, reads_known_keys

    names = set(keys) | {key.rpartition(".")[2] for key in keys}
    for kind in ("network", "model", "loss", "data set", "metric", "optimizer", "scheduler"):
        names |= set(registry.names(kind))
        if name not in registry.names(kind):
            continue
        thing = registry.lookup(kind, name)
        head = (
            f"{name}, {'an' if kind == 'optimizer' else 'a'} {kind}. "
            + inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0]
        )
        if kind == "model" or name in BASICSR_KEYS["data sets"]:
            read = BASICSR_KEYS["data sets"].get(name) or BASICSR_KEYS["models"].get(name) or ()
            open_to_any = kind == "model" and not reads_known_keys(thing)
            others = "any key" if open_to_any else "what every model reads"
            return f"{head}\n  reads: {', '.join(read) or others}"
        about = vars(thing).get("about") if kind == "loss" else None  # what docs/methods.md says of ours
        facts = [f"  formula: {about.formula}", f"  usual taps and weight: {about.use}"] if about else []
        facts += [f"  source: {about.paper}"] if about and about.paper else []
        return "\n".join([head, *facts, *keyword_lines(thing)])
    raise UserError(f"--explain {name}: there is no option and no class of that name{nearest(name, names)}")


_KINDS = {  # section -> kind of what its `type` names
    "NetworkOptions": "network",
    "DatasetOptions": "data set",
    "MetricOptions": "metric",
    **dict.fromkeys(("LossOptions", "PixelOptions", "TermOptions"), "loss"),
    "OptimizerOptions": "optimizer",
    "SchedulerOptions": "scheduler",
}


def json_schema(names: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of option files, for editors (``# yaml-language-server: $schema=options/schema.json``).

    Args:
        names: offer the registered names where a `type` is asked for, those of plug-ins among them.
    """
    schema = Options.model_json_schema()
    if names:
        from kdsr_arch import registry

        places = [(schema["$defs"][section]["properties"]["type"], kind) for section, kind in _KINDS.items()]
        for place, kind in [*places, (schema["properties"]["model_type"], "model")]:
            place["anyOf"] = [{"enum": sorted(registry.names(kind))}, {"type": place.pop("type")}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "KDSR option file"}
