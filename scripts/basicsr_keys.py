"""Writes kdsr_arch/options/basicsr_keys.json: the option keys that BasicSR's data sets and models read.

    python scripts/basicsr_keys.py

BasicSR 1.4.2 is frozen, so the table changes only where this script does. It searches each class, its base classes
and the helpers that it hands its options to for ``opt['k']``, ``opt.get('k')`` and ``'k' in opt``.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdsr_arch import registry

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "kdsr_arch" / "options" / "basicsr_keys.json"
SET_BY_US = {"dist", "is_train", "rank", "world_size", "phase"}  # no keys of an option file
NOT_REACHED = {"find_unused_parameters", "flip_seq"}  # read by methods of BasicSR's models that are never called here
EVERY_MODEL = {"train.ema_decay", "train.pixel_opt", "val.center_frame_only", "val.pbar", "val.suffix"}  # in any file


def section_of(node: ast.expr) -> str | None:
    """The section of the options that an expression stands for: ``self.opt`` '', ``opt['train']`` 'train'."""
    if isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        if name in ("opt", "opts", "dataset_opt"):
            return ""
        return name.removesuffix("_opt") if name.endswith("_opt") else None
    read = key_read(node)
    return None if read is None else ".".join(part for part in read if part)


def key_read(node: ast.AST) -> tuple[str, str] | None:
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
    section = section_of(holder)
    is_text = isinstance(key, ast.Constant) and isinstance(key.value, str)
    return (section, str(key.value)) if section is not None and isinstance(key, ast.Constant) and is_text else None


def helpers(tree: ast.AST, module: str) -> Iterator[Any]:
    """Functions and classes of a module that are handed the whole options."""
    names = vars(sys.modules[module])
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            helper = names.get(node.func.id)
            if any(section_of(arg) == "" for arg in node.args) and inspect.isroutine(helper) | inspect.isclass(helper):
                yield helper


def reads(thing: Any, seen: set[Any]) -> Iterator[tuple[str, str]]:
    """(section, key) of every option that a class or function reads."""
    for part in thing.__mro__ if inspect.isclass(thing) else (thing,):
        if part in seen or not part.__module__.startswith("basicsr"):
            continue
        seen.add(part)
        tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
        yield from filter(None, map(key_read, ast.walk(tree)))
        for helper in helpers(tree, part.__module__):
            yield from reads(helper, seen)


def dataset_keys(cls: type) -> set[str]:
    """The keys of `datasets.*` that a data set reads."""
    return {key for section, key in reads(cls, set()) if not section} - SET_BY_US


def model_keys(cls: type) -> set[str]:
    """The keys at the top, in `train` and in `val` that a model reads, dotted."""
    keys = {(section, key) for section, key in reads(cls, set()) if key not in SET_BY_US | NOT_REACHED}
    return {f"{section}.{key}".lstrip(".") for section, key in keys if section in ("", "train", "val")}


def table() -> str:
    """The text of the generated file."""
    datasets, models = (
        {name: cls for name in registry.names(kind) if registry.is_basicsr(cls := registry.lookup(kind, name))}
        for kind in ("data set", "model")
    )
    by_model = {name: model_keys(cls) for name, cls in models.items()}
    common = set.intersection(*by_model.values()) | EVERY_MODEL
    content = {
        "data sets": {name: sorted(dataset_keys(cls)) for name, cls in datasets.items()},
        "models": {name: sorted(keys - common) for name, keys in by_model.items()},  # beside what every model may have
    }
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(table(), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")
