"""Trainings one after the other from one option file: a teacher, then the student that it teaches.

`sequence` is a list of parts. Each is the file's own options with what the part says laid over them, named NAME/PART,
and trained like a file of its own; a later part may read weights that an earlier one writes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdsr_arch.errors import OptionErrors
from kdsr_arch.options.force import apply_force
from kdsr_arch.options.yaml_reader import Document, describe, read_document


def read_parts(path: str | Path, force: Iterable[str] = ()) -> list[Document]:
    """The documents that an option file stands for: one for each part of its `sequence`, else itself alone.

    Args:
        path: the option file.
        force: ``key:sub=value`` entries of ``--force_yml``, set before the parts are laid over.

    Raises:
        UserError: the file cannot be read, or a part has no name of its own.
    """
    document = read_document(path)
    apply_force(document, force)
    if "sequence" not in document.values:
        return [document]
    return [_part(document, number, spec) for number, spec in enumerate(_specs(document))]


def _specs(document: Document) -> list[dict[str, Any]]:
    specs, faults = document.values["sequence"], []
    if not isinstance(specs, list) or len(specs) < 2:
        raise OptionErrors(["sequence: must be a list of two parts or more, each with a name"], document.source)
    names = [spec.get("name") if isinstance(spec, dict) else None for spec in specs]
    for number, (spec, name) in enumerate(zip(specs, names, strict=True)):
        key = f"sequence.{number}"
        if not isinstance(spec, dict):
            faults.append(f"{key}: must be a mapping of options, not {describe(spec)}{document.where(key)}")
        elif not isinstance(name, str) or not name or "/" in name or name in names[:number]:
            faults.append(f"{key}.name: each part needs a name of its own, without '/'{document.where(key)}")
    if faults:
        raise OptionErrors(faults, document.source)
    return specs


def _part(document: Document, number: int, spec: Mapping[str, Any]) -> Document:
    common = {key: value for key, value in document.values.items() if key != "sequence"}
    values = lay_over(common, spec)
    values["name"] = f"{document.values.get('name')}/{spec['name']}"
    prefix = f"sequence.{number}."
    own = {key.removeprefix(prefix): line for key, line in document.lines.items() if key.startswith(prefix)}
    forced = {key.removeprefix(prefix) for key in document.forced}
    return Document(values, f"{document.source}, part '{spec['name']}'", {**document.lines, **own}, [], forced)


def lay_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` with `changes`: mappings are merged key by key, but one that names a `type` replaces the other
    whole; null takes a key away.
    """
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        held = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(held, Mapping) and "type" not in value:
            result[key] = lay_over(held, value)
        else:
            result[key] = copy.deepcopy(value)
    return result
