"""Reads option files: YAML 1.2 scalars, no duplicate keys, and the line of every key for messages.

PyYAML follows YAML 1.1, where ``1e-4`` is a string, ``no`` is false and ``1:30`` is 90; option files follow the core
schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), where they are a number and two strings.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdsr_arch.errors import OptionErrors, UserError, nearest

_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": _FLOAT,
    "merge": r"<<",
}


_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")  # other tags make values that no option takes
_MOST_BYTES = 512 << 10  # the shipped files have some thousand; the reader takes a second for 100 KiB
_MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2, and with the tags of its core schema only."""

    yaml_implicit_resolvers: dict[Any, Any] = {}
    yaml_constructors = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _KINDS
    }


def _construct_str(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node))
    if not text.isascii():
        text.encode()  # halves of characters ("\ud800") are no text: their UnicodeEncodeError is a ValueError
    return text


def _construct_bool(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    text = str(loader.construct_scalar(node)).lower()
    if text not in ("true", "false"):
        raise ValueError(f"'{node.value}' is neither true nor false")
    return text == "true"


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    value = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if abs(value) >= 1 << 63:
        raise ValueError(f"the number {text[:30]}... is too large")
    return value


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan")
    try:
        return float(text)
    except ValueError:
        raise yaml.constructor.ConstructorError(None, None, f"'{node.value}' is no number", node.start_mark) from None


for _tag, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None)
_Loader.add_constructor("tag:yaml.org,2002:str", _construct_str)
_Loader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


@dataclass
class Document:
    """The contents of an option file.

    Attributes:
        values: the plain values.
        source: what messages call the file.
        lines: the line (from 1) on which each dotted key stands.
        repeated: a sentence for each key that stands twice.
        forced: dotted keys that the command line set.
    """

    values: dict[str, Any]
    source: str = ""
    lines: dict[str, int] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)
    forced: set[str] = field(default_factory=set)

    def where(self, key: str) -> str:
        """`` (line 12)`` for a dotted key or the nearest of its parents that has a line, or an empty string."""
        while key:
            if key in self.forced:
                return " (--force_yml)"
            if key in self.lines:
                return f" (line {self.lines[key]})"
            key = key.rpartition(".")[0]
        return ""

    def line(self, key: str) -> int:
        """Return the line of a dotted key, or of its nearest parent that has one; 0 if none has."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return self.lines.get(key, 0)


def _weight(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Count the values of a node with every alias written out, without writing them out.

    Args:
        known: the weights of nodes seen so far; None while a node's own parts are being counted.

    Raises:
        ValueError: an alias stands inside the value it is an alias of.
    """
    if id(node) in known:
        weight = known[id(node)]
        if weight is None:
            raise ValueError("an alias stands inside the value that it repeats")
        return weight
    known[id(node)] = None
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    known[id(node)] = weight = 1 + sum(_weight(part, known) for part in parts)
    return weight


def _index(node: yaml.Node, prefix: str, document: Document) -> None:
    """Record the line of every key below `node`, and the keys that stand twice in one mapping."""
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            document.lines.setdefault(f"{prefix}{position}", item.start_mark.line + 1)
            _index(item, f"{prefix}{position}.", document)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in seen and key != "<<":
                document.repeated.append(f"{prefix}{key}: stands twice (lines {seen[key]} and {line})")
            seen[key] = line
            document.lines[f"{prefix}{key}"] = line
            _index(value_node, f"{prefix}{key}.", document)


def _syntax_error(source: str, text: str, error: yaml.YAMLError) -> UserError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return UserError(f"{source}: is not YAML: {problem}")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    shown = f"{mark.line + 1:>6} | {line}\n" + " " * (9 + mark.column) + "^"
    return UserError(f"{source}, line {mark.line + 1}: is not YAML: {problem}\n{shown}")


def _compose(text: str, source: str) -> tuple[Any, Document]:
    document = Document(values={}, source=source)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, document
        if _weight(node, {}) > _MOST_VALUES:
            raise UserError(f"{source}: holds more than {_MOST_VALUES:,} values, aliases written out; shorten it")
        _index(node, "", document)
        values = loader.construct_document(node)
    except yaml.YAMLError as error:
        raise _syntax_error(source, text, error) from None
    except RecursionError:
        raise UserError(f"{source}: is not YAML that can be used: it is nested too deeply") from None
    except ValueError as error:  # a wrong `!!int`, or an alias of its own parent
        raise UserError(f"{source}: is not YAML that can be used: {error}") from None
    return values, document


def read_document(path: str | Path) -> Document:
    """Read an option file; see `parse_document`.

    Raises:
        UserError: the file is missing, a folder, not readable, not text, or far too large.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise UserError(f"{path}: is larger than {_MOST_BYTES >> 10} KiB, so not an option file")
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        folder = Path(path).parent
        hint = nearest(Path(path).name, [file.name for file in folder.glob("*.y*ml")])
        hint = hint if folder.is_dir() else f" (there is no folder {folder} either)"
        raise UserError(f"{path}: there is no such option file{hint}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name an option file (.yml) in it") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read this option file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file (UTF-8), so not an option file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_document(text, str(path))


def parse_document(text: str, source: str = "options") -> Document:
    """Read the text of an option file, which `source` names in messages.

    Raises:
        UserError: YAML syntax error (with its line), no mapping at the top.
        OptionErrors: keys that stand twice.
    """
    values, document = _compose(text, source)
    if values is None:
        raise UserError(f"{source}: is empty")
    if not isinstance(values, dict):
        raise UserError(f"{source}: must be a mapping of keys to values, not {describe(values)}")
    if document.repeated:
        raise OptionErrors(document.repeated, source)
    document.values = values
    return document


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read the plain values of a YAML file, by the rules of option files (`read_document`), without a schema."""
    return read_document(path).values


def parse_value(text: str) -> Any:
    """Parse one YAML value (a scalar, or a list or mapping in flow style), as behind ``--force_yml key=``.

    Raises:
        UserError: the text is not YAML.
    """
    values, document = _compose(text, f"'{text}'")
    if document.repeated:
        raise OptionErrors(document.repeated)
    return values


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes what is a text by YAML 1.1, such as 1e3, and a number by YAML 1.2."""


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    taken = any(re.fullmatch(pattern, text) for pattern in _SCALARS.values())
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if taken else None)


_Dumper.add_representer(str, _represent_str)


def write_values(values: Any, flow: bool | None = False, width: int = 120) -> str:
    """Write plain values such that `parse_document` reads them.

    Args:
        flow: in flow style, ``{type: FSRCNN, scale: 4}``, rather than a line for each key.
        width: where lines are broken.
    """
    text: str = yaml.dump(values, Dumper=_Dumper, default_flow_style=flow, sort_keys=False, width=width)
    return text


def in_one_line(value: Any) -> str:
    """Write a value as an option file has it in flow style, such as ``{type: FSRCNN, scale: 4}``."""
    return write_values(value, flow=True, width=10**6).removesuffix("\n...\n").strip()


def describe(value: Any) -> str:
    """Describe a value for a message, with its kind where that is not plain: ``the text 'abc'``, ``a list``."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text '{value}'" if len(value) < 60 else "a text"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else str(value)
