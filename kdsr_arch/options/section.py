"""The building blocks of the schema: the base class of every section, and strict scalars with plain messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

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
