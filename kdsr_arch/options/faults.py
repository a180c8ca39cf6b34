"""Validates sections, with all their faults as sentences: a dotted key, what is wrong, the nearest names."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kdsr_arch.errors import nearest
from kdsr_arch.options.section import Fault, Section
from kdsr_arch.options.yaml_reader import describe

S = TypeVar("S", bound=Section)

_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
}


def section_classes(annotation: Any) -> list[type[Section]]:
    """Return the sections that a field's annotation can hold, through Optional, list, dict, Annotated and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation] if issubclass(annotation, Section) else []
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated, list, dict):
        return [found for part in typing.get_args(annotation) for found in section_classes(part)]
    return []


def sections_at(parts: Sequence[str | int], top: type[Section]) -> list[type[Section]]:
    """Return the sections that can hold the last of `parts`: [OptimizerOptions] for ``('train', 'optim_g', 'lr')``."""
    sections, collection = [top], False
    for part in parts[:-1]:
        if collection:  # a name in a dict of sections, or a position in a list of them
            collection = False
            continue
        fields = [section.model_fields[str(part)] for section in sections if str(part) in section.model_fields]
        sections = [found for field in fields for found in section_classes(field.annotation)]
        collection = any(typing.get_origin(without_optional(field.annotation)) in (list, dict) for field in fields)
    return sections


def without_optional(annotation: Any) -> Any:
    """Return an annotation without its ``| None``."""
    args = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return args[0] if is_union and len(args) == 1 else annotation


def _sentence(error: Any, parts: Sequence[str | int], top: type[Section]) -> str:
    """Say what is wrong, without the key."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "is required, but missing"
    if kind == "extra_forbidden":
        return "unknown key" + nearest(
            str(parts[-1]), {key for section in sections_at(parts, top) for key in section.model_fields}
        )
    if kind == "literal_error":
        allowed = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        hint = nearest(value, allowed) if isinstance(value, str) else ""
        return f"must be {context['expected']}, not {describe(value)}{hint}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"must be {words} {context[bound]:g}, got {describe(value)}"
    if kind in ("too_short", "too_long"):
        wanted = context.get("min_length", context.get("max_length"))
        return f"must have {wanted} entries, has {len(value)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "form":
        return f"{error['msg']}, not {describe(value)}"
    wanted = next((text for name, text in _KINDS.items() if kind.startswith(name)), None)
    return f"must be {wanted}, not {describe(value)}" if wanted else f"{error['msg'].lower()}, not {describe(value)}"


def parse_section(cls: type[S], values: Any, prefix: Sequence[str] = ()) -> tuple[S, list[Fault]]:
    """Validate `values` as a section.

    Returns:
        The section and its faults, with keys below `prefix`. Where there are any, fields at fault have their defaults,
        those without a default None.
    """
    try:
        return cls.model_validate(values), []
    except ValidationError as error:
        faults = []
        for item in error.errors(include_url=False):
            parts = [part for part in item["loc"] if not str(part).startswith("<") and part != "[key]"]
            faults.append((".".join(map(str, [*prefix, *parts])), _sentence(item, parts, cls)))
        return _sound_part(cls, values), faults


def _sound_part(cls: type[S], values: Any) -> S:
    """Make a section of those of `values` that are valid."""
    section = cls.model_construct()
    vars(section).update({name: None for name, field in cls.model_fields.items() if field.is_required()})
    if not isinstance(values, dict):
        section._at_fault.update(cls.model_fields)
        return section
    for name, value in values.items():
        if name not in cls.model_fields:
            if section.model_extra is not None:
                section.model_extra[str(name)] = value
            continue
        try:
            cls.__pydantic_validator__.validate_assignment(section, name, value)
        except ValidationError:
            section._at_fault.add(name)
            sound = _sound_value(cls.model_fields[name].annotation, value)
            if sound is not None:
                setattr(section, name, sound)
    return section


def _sound_value(annotation: Any, value: Any) -> Any:
    """Make a section, or a dict or list of sections, of the valid part of a field's value; None if there is none."""
    classes, form = section_classes(annotation), typing.get_origin(without_optional(annotation))
    if not classes or not isinstance(value, form if form in (dict, list) else dict):
        return None
    if form is dict:
        return {str(key): _sound_part(classes[0], item) for key, item in value.items()}
    if form is list:
        return [_sound_part(classes[0], item) for item in value]
    return _sound_part(classes[0], value)
