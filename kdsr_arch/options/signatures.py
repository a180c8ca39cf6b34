"""What registered classes take: constructor keywords by their signatures, option keys by their sources."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Keywords:
    """Keywords that a constructor or function takes; `open` when it takes any others as well."""

    parameters: Mapping[str, inspect.Parameter]
    open: bool = False

    @property
    def required(self) -> list[str]:
        """Names without a default."""
        return [name for name, parameter in self.parameters.items() if parameter.default is inspect.Parameter.empty]

    def default(self, name: str) -> Any:
        """The default of a keyword, or None."""
        parameter = self.parameters.get(name)
        return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def _syntax(thing: Any) -> ast.AST | None:
    """The syntax tree of a class or function; None where there is no source to read."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, TypeError, SyntaxError):
        return None


def _passes_on(function: Callable[..., Any], name: str) -> str:
    """What becomes of ``**name``: 'super' (handed to the base class), 'unused', or 'any' (used some other way)."""
    tree = _syntax(function)
    if tree is None:
        return "any"
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).startswith("super(")
            and any(keyword.arg is None and ast.unparse(keyword.value) == name for keyword in node.keywords)
        ):
            return "super"
    used = any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))
    return "any" if used else "unused"


def _own_keywords(function: Callable[..., Any], skip: int) -> tuple[dict[str, inspect.Parameter], str | None]:
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    plain = {p.name: p for p in parameters if p.kind not in _VARIABLE and p.kind != p.POSITIONAL_ONLY}
    rest = next((p.name for p in parameters if p.kind == p.VAR_KEYWORD), None)
    return plain, rest


@cache
def class_keywords(cls: type) -> Keywords:
    """The keywords of a class's constructor; ``**kwargs`` handed to the base class is followed there."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        own, rest = _own_keywords(vars(base)["__init__"], skip=1)
        found = {**own, **found}
        if rest is None:
            return Keywords(found)
        if _passes_on(vars(base)["__init__"], rest) != "super":
            return Keywords(found, open=True)
    return Keywords(found)


@cache
def function_keywords(function: Callable[..., Any], given: tuple[str, ...]) -> Keywords:
    """The keywords of a function beside those `given` by its caller; an unused ``**kwargs`` takes nothing."""
    own, rest = _own_keywords(function, skip=0)
    plain = {name: parameter for name, parameter in own.items() if name not in given}
    return Keywords(plain, open=rest is not None and _passes_on(function, rest) != "unused")


def _section(node: ast.expr) -> str | None:
    """The section of the options that an expression stands for: ``self.opt`` '', ``opt['train']`` 'train'."""
    if isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        if name in ("opt", "opts", "dataset_opt", "options"):
            return ""
        return name.removesuffix("_opt") if name.endswith("_opt") else None
    read = _read(node)
    return None if read is None else ".".join(part for part in read if part)


def _read(node: ast.AST) -> tuple[str, str] | None:
    """(section, key) where a node reads an option: ``opt['k']``, ``opt.get('k')``, ``'k' in opt``."""
    holder: ast.expr
    if isinstance(node, ast.Subscript):
        holder, key = node.value, node.slice
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        if node.func.attr not in ("get", "pop", "setdefault"):
            return None
        holder, key = node.func.value, node.args[0]
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn):
        holder, key = node.comparators[0], node.left
    else:
        return None
    section, name = _section(holder), _text(key)
    return None if section is None or name is None else (section, name)


def _text(node: ast.expr) -> str | None:
    """A constant text; the open places of an f-string become ``*``."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _helpers(tree: ast.AST, module: str) -> Iterator[Any]:
    """Functions and classes that are handed the whole options: ``color_of(opt)``, ``FramePairs(self.opt)``."""
    names = vars(sys.modules[module]) if module in sys.modules else {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and any(_section(arg) == "" for arg in node.args)
        ):
            helper = names.get(node.func.id)
            if inspect.isclass(helper) or inspect.isfunction(helper):
                yield helper


def _reads(thing: Any, seen: set[Any]) -> Iterator[tuple[str, str]]:
    """(section, key) of every option that a class or function reads, its base classes and helpers included."""
    for part in thing.__mro__ if inspect.isclass(thing) else (thing,):
        if part in seen or part is object:
            continue
        seen.add(part)
        for dotted in vars(part).get("option_keys", {}):
            section, _, key = dotted.rpartition(".")
            yield section, key
        tree = _syntax(part)
        if tree is not None:
            yield from filter(None, map(_read, ast.walk(tree)))
            for helper in _helpers(tree, part.__module__):
                yield from _reads(helper, seen)


@cache
def option_keys(cls: type) -> Mapping[str, frozenset[str]]:
    """The option keys that a class reads, by section ('' is the options it is given, 'train', 'val', ...).

    A class may say so itself with ``option_keys: dict[str, str]`` (dotted key -> meaning); beside that its source, its
    base classes' and that of helpers it hands its options to are searched for ``opt['k']``, ``opt.get('k')`` and the
    like. An f-string's open places stand as ``*``.
    """
    found: dict[str, set[str]] = {}
    for section, key in _reads(cls, set()):
        found.setdefault(section, set()).add(key)
    return {section: frozenset(keys) for section, keys in found.items()}
