"""The building blocks of the schema: sections, strict scalars, and validation that reports all faults as sentences."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from kdsr_arch.errors import nearest
from kdsr_arch.options.yaml_reader import describe

Fault = tuple[str, str]
"""A dotted key and a sentence that says what is wrong with it."""


class Section(BaseModel):
    """One mapping of an option file. Subclasses declare each key once, with its meaning."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), strict=True)

    _at_fault: set[str] = PrivateAttr(default_factory=set)  # fields whose own values are faulty

    def lacks(self, name: str) -> bool:
        """Tell whether a field has no value, neither a valid nor a faulty one."""
        return getattr(self, name) is None and name not in self._at_fault

    def plain(self) -> dict[str, Any]:
        """Return a plain dict of what is written and of the defaults that are not None."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        kept = {name: value for name, value in values.items() if value is not None or name in self.model_fields_set}
        return {key: _plain(value) for key, value in {**kept, **(self.model_extra or {})}.items()}

    def faults(self) -> Iterator[Fault]:
        """Yield a fault, with the key below this section, for each combination of values that cannot work.

        A field whose own value is at fault has its default here, or None.
        """
        yield from ()

    def faults_below(self, prefix: str = "") -> Iterator[Fault]:
        """Yield the `faults` of this section and of every section in it, with whole keys."""
        for key, sentence in self.faults():
            yield f"{prefix}{key}", sentence
        for key, section in self.sections():
            yield from section.faults_below(f"{prefix}{key}.")

    def sections(self) -> Iterator[tuple[str, Section]]:
        """Yield the sections in this one with their keys; those in dicts and lists as ``metrics.psnr``."""
        for name in type(self).model_fields:
            yield from _sections_in(name, getattr(self, name))
        for name, value in (self.model_extra or {}).items():
            yield from _sections_in(name, value)


def _sections_in(key: str, value: Any) -> Iterator[tuple[str, Section]]:
    if isinstance(value, Section):
        yield key, value
    elif isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(item, Section):
                yield f"{key}.{name}", item


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.plain()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


class OpenSection(Section):
    """A section with further keys, which some class reads; `components.py` says which there are."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), strict=True)


class Component(OpenSection):
    """A registered class or function and its keywords.

    Attributes:
        own: fields that the toolkit reads and that are no keywords of that class.
    """

    own: ClassVar[frozenset[str]] = frozenset({"type"})

    type: str

    def keywords(self) -> dict[str, Any]:
        """Return the keywords that the option file gives the class that `type` names, as plain values."""
        fields = {name: getattr(self, name) for name in self.__class__.model_fields if name not in self.own}
        written = {name: value for name, value in fields.items() if name in self.model_fields_set and value is not None}
        return {key: _plain(value) for key, value in {**written, **(self.model_extra or {})}.items()}


def _whole(value: Any) -> Any:
    """Turn a whole float into an int: BasicSR's files write ``5e3``. Beyond 2^53 floats are not exact."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 1 << 53:
        return int(value)
    return value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {describe(value)}")
    return value


Int = Annotated[int, BeforeValidator(_whole)]
Float = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Positive = Annotated[Int, Field(gt=0)]
Count = Annotated[Int, Field(ge=0)]
PositiveFloat = Annotated[Float, Field(gt=0)]
Weight = Annotated[Float, Field(ge=0)]
Fraction = Annotated[Float, Field(ge=0, lt=1)]


def _one_or_many(value: Any) -> Any:
    if value in ("", []) or (isinstance(value, list) and "" in value):
        raise ValueError("is empty, or holds an empty text; name something, or take the key out")
    if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(v, str) for v in value)):
        return value
    raise ValueError(f"must be a text or a list of texts, not {describe(value)}")


Names = Annotated[str | list[str], BeforeValidator(_one_or_many)]


_LONGEST_PART = 200  # bytes of a file's name; file systems take 255, and endings are added


def leads_astray(name: str) -> bool:
    """Tell whether a text that becomes part of a path leads out of its folder or cannot name a file."""
    parts = name.split("/")
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError:
        return True
    return name.startswith(("/", "~")) or ".." in parts or "\0" in name or longest > _LONGEST_PART


def _plain_name(value: Any) -> Any:
    if isinstance(value, str) and leads_astray(value):
        raise ValueError(f"becomes the name of a file or folder, so it cannot be {value[:80]!r}")
    return value


PlainName = Annotated[str, BeforeValidator(_plain_name)]


def option(default: Any, description: str, **limits: Any) -> Any:
    """Declare a key with its default and meaning; `limits` as of pydantic's Field."""
    return Field(default, description=description, **limits)


def only_with(models: str, description: str, **limits: Any) -> Any:
    """Declare a key that only some model types read; `components.py` refuses it elsewhere."""
    return Field(
        None, description=f"{description} Read by {models}.", json_schema_extra={"only_with": models}, **limits
    )


# ------------------------------------------------------------------------------------------------------- validation

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


def _sentence(error: Any, parts: Sequence[str | int], top: type[Section]) -> str:
    """Say what is wrong, without the key."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "is required, but missing"
    if kind == "extra_forbidden":
        known = {key for section in sections_at(parts, top) for key in section.model_fields}
        return f"unknown key{nearest(str(parts[-1]), known)}"
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


# ------------------------------------------------------------------------------------ what annotations hold


def section_classes(annotation: Any) -> list[type[Section]]:
    """Return the sections that a field's annotation can hold, through Optional, list, dict, Annotated and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation] if issubclass(annotation, Section) else []
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated, list, dict):
        return [cls for part in typing.get_args(annotation) for cls in section_classes(part)]
    return []


def sections_at(parts: Sequence[str | int], top: type[Section]) -> list[type[Section]]:
    """Return the sections that can hold the last of `parts`: [OptimizerOptions] for ``('train', 'optim_g', 'lr')``."""
    sections, collection = [top], False
    for part in parts[:-1]:
        if collection:  # a name in a dict of sections, or a position in a list of them
            collection = False
            continue
        fields = [section.model_fields[str(part)] for section in sections if str(part) in section.model_fields]
        sections = [cls for field in fields for cls in section_classes(field.annotation)]
        collection = any(typing.get_origin(without_optional(field.annotation)) in (list, dict) for field in fields)
    return sections


def without_optional(annotation: Any) -> Any:
    """Return an annotation without its ``| None``."""
    args = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return args[0] if is_union and len(args) == 1 else annotation
