"""Reads an option file into documents: one for each part of a sequence, with the options of the command line set.

``--force_yml key:sub=value`` sets single options; null takes the key out. `sequence` is a list of trainings, one after
the other: a teacher, then the student that it teaches. Each part is the file's own options with what the part says laid
over them, named NAME/PART, and trained like a file of its own; a later part may read weights that an earlier one
writes.
"""

from __future__ import annotations

import copy
import logging
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdsr_arch.errors import OptionErrors, UserError
from kdsr_arch.options.schema import Options
from kdsr_arch.options.section import sections_at
from kdsr_arch.options.yaml_reader import Document, describe, parse_value, read_document


def read_parts(path: str | Path, force: Iterable[str] = ()) -> list[Document]:
    """Read an option file into one document for each part of its `sequence`, or into a single one.

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
    """Return what the parts of a sequence say, each checked to be a mapping with a name of its own."""
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


def lay_over(base: Mapping[str, Any], changes: Mapping[str, Any], below: Sequence[str] = ()) -> dict[str, Any]:
    """Copy `base`, the options below some keys, with `changes`.

    Mappings are merged key by key, but for those that name a `type`, which replace the other; null removes a key as in
    `set_option`.
    """
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        before, keys = result.get(key), [*below, str(key)]
        if _removes(keys, value):
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(before, Mapping) and "type" not in value:
            result[key] = lay_over(before, value, keys)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _split(entry: str) -> tuple[list[str], Any]:
    path, sign, text = entry.partition("=")
    keys = [key.strip() for key in path.replace(".", ":").split(":")]
    if not sign or not all(keys):
        raise UserError(f"--force_yml {entry}: must have the form key:sub=value, such as train:total_iter=1000")
    try:
        return keys, parse_value(text.strip())
    except UserError as error:
        if text.lstrip().startswith("{}") or not re.match(r"""\s*[\[{"'!]""", text):
            return keys, text.strip()  # such as {}x4 or *.png: no YAML, so a text that needs no quotes
        raise UserError(f"--force_yml {entry}: the value {error}") from None


def _removes(keys: Sequence[str], value: Any) -> bool:
    """Tell whether a value takes the key out: null does, unless it is a choice of its own beside the key's default."""
    if value is not None:
        return False
    fields = [
        section.model_fields[keys[-1]] for section in sections_at(keys, Options) if keys[-1] in section.model_fields
    ]
    return not any(type(None) in typing.get_args(field.annotation) and field.default is not None for field in fields)


def _step(holder: Any, key: str, done: list[str], entry: str) -> Any:
    """Return the value below `key`; make a missing mapping, which the schema then checks."""
    if isinstance(holder, dict):
        if holder.get(key) is None:
            holder[key] = {}
        return holder[key]
    if _names_item(holder, key):
        return holder[int(key)]
    raise UserError(f"{entry}: '{':'.join(done)}' is {describe(holder)}, so it has no '{key}'")


def _has(values: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if isinstance(values, dict) and key in values:
            values = values[key]
        elif _names_item(values, key):
            values = values[int(key)]
        else:
            return False
    return True


def _names_item(holder: Any, key: str) -> bool:
    return isinstance(holder, list) and key.isdecimal() and len(key) < 10 and int(key) < len(holder)


def set_option(values: Any, keys: Sequence[str], value: Any, entry: str) -> None:
    """Set the option at `keys` in place; make missing mappings, which the schema then checks.

    Null takes the key out of its mapping, but where it is a choice of its own (`val.speed_size`).

    Args:
        values: nested dicts and lists.
        keys: from the outermost to the option's own; a number chooses from a list.
        value: what the option becomes.
        entry: what the message calls the change.

    Raises:
        UserError: `keys` lead through something that has no keys.
    """
    *parents, last = keys
    for position, key in enumerate(parents):
        values = _step(values, key, parents[:position], entry)
    if isinstance(values, dict) and _removes(keys, value):
        values.pop(last, None)
    elif isinstance(values, dict):
        values[last] = value
    elif _names_item(values, last):
        values[int(last)] = value
    else:
        _step(values, last, parents, entry)


def _set(document: Document, entry: str) -> None:
    keys, value = _split(entry)
    if _removes(keys, value) and not _has(document.values, keys):
        logging.getLogger("kdsr").warning("--force_yml %s: there is no such key to take out", entry)
        return
    set_option(document.values, keys, value, f"--force_yml {entry}")
    dotted = ".".join(keys)
    for key in [line for line in document.lines if line == dotted or line.startswith(f"{dotted}.")]:
        del document.lines[key]
    document.forced.add(dotted)


def apply_force(document: Document, entries: Iterable[str]) -> None:
    """Set options in place. The schema then checks their keys like any others.

    Args:
        entries: ``key:sub=value`` each; the value is YAML, so ``1e-4`` is a number and ``[1, 2]`` a list.

    Raises:
        OptionErrors: entries of another form, or that lead through something that has no keys.
    """
    faults = []
    for entry in entries:
        try:
            _set(document, entry)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise OptionErrors(faults, document.source)
