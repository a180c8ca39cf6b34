"""``--force_yml key:sub=value``: single options set on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kdsr_arch.errors import OptionErrors, UserError
from kdsr_arch.options.yaml_reader import Document, describe, parse_value


def _split(entry: str) -> tuple[list[str], Any]:
    path, sign, text = entry.partition("=")
    keys = [key.strip() for key in path.replace(".", ":").split(":")]
    if not sign or not all(keys):
        raise UserError(f"--force_yml {entry}: must have the form key:sub=value, such as train:total_iter=1000")
    try:
        return keys, parse_value(text.strip())
    except UserError as error:
        raise UserError(f"--force_yml {entry}: the value {error}") from None


def _step(holder: Any, key: str, done: list[str], entry: str) -> Any:
    """What stands below `key`; mappings that are missing are made, and the schema judges them afterwards."""
    if isinstance(holder, dict):
        if holder.get(key) is None:
            holder[key] = {}
        return holder[key]
    if _names_item(holder, key):
        return holder[int(key)]
    raise UserError(f"{entry}: '{':'.join(done)}' is {describe(holder)}, so it has no '{key}'")


def _names_item(holder: Any, key: str) -> bool:
    return isinstance(holder, list) and key.isdecimal() and len(key) < 10 and int(key) < len(holder)


def set_option(values: Any, keys: Sequence[str], value: Any, entry: str, *, null_removes: bool = False) -> None:
    """Set the option at `keys` in place; mappings that are missing are made, and the schema judges them afterwards.

    Args:
        values: nested dicts and lists.
        keys: from the outermost to the option's own; a number chooses from a list.
        value: what the option becomes.
        entry: what the message calls the change.
        null_removes: a value of None removes the key from its mapping.

    Raises:
        UserError: `keys` lead through something that has no keys.
    """
    *parents, last = keys
    for position, key in enumerate(parents):
        values = _step(values, key, parents[:position], entry)
    if isinstance(values, dict) and value is None and null_removes:
        values.pop(last, None)
    elif isinstance(values, dict):
        values[last] = value
    elif _names_item(values, last):
        values[int(last)] = value
    else:
        _step(values, last, parents, entry)


def _set(document: Document, entry: str) -> None:
    keys, value = _split(entry)
    set_option(document.values, keys, value, f"--force_yml {entry}")
    dotted = ".".join(keys)
    for key in [line for line in document.lines if line == dotted or line.startswith(f"{dotted}.")]:
        del document.lines[key]
    document.forced.add(dotted)


def apply_force(document: Document, entries: Iterable[str]) -> None:
    """Set options in place. Unknown keys are found by the checks that follow, like any others.

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
