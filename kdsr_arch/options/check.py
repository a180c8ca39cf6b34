"""Finds every fault of an option file at once."""

from __future__ import annotations

import logging
import typing
from collections.abc import Iterator
from typing import Any

from kdsr_arch.errors import OptionErrors
from kdsr_arch.options.faults import parse_section, section_classes, without_optional
from kdsr_arch.options.schema import Options
from kdsr_arch.options.types import Section
from kdsr_arch.options.yaml_reader import Document

logger = logging.getLogger("kdsr")


def _children(values: dict[str, Any], section: type[Section]) -> Iterator[tuple[str, Any, type[Section]]]:
    """(key, value, section) of every mapping below `values` that the schema knows, through dicts of sections."""
    for name, field in section.model_fields.items():
        value, classes = values.get(name), section_classes(field.annotation)
        if not isinstance(value, dict) or not classes:
            continue
        if typing.get_origin(without_optional(field.annotation)) is dict:
            yield from ((f"{name}.{key}", item, classes[0]) for key, item in value.items())
        else:
            yield name, value, classes[0]


def rename_old_keys(values: Any, section: type[Section], prefix: str = "") -> list[str]:
    """Give keys of older BasicSR files their names of 1.4, in place; returns a note for each."""
    if not isinstance(values, dict):
        return []
    notes = []
    for old, new in section.renamed.items():
        if old in values and new not in values:
            values[new] = values.pop(old)
            notes.append(f"{prefix}{old} is an older name of {new}; taken as that")
    for key, value, child in _children(values, section):
        notes += rename_old_keys(value, child, f"{prefix}{key}.")
    return notes


def check_document(document: Document, *, is_train: bool) -> Options:
    """Validate a document; old names of keys are changed in place.

    Args:
        document: as `read_document` gives it.
        is_train: check what training needs, or what testing needs.

    Raises:
        OptionErrors: all its faults at once, in the order of the file, each with its dotted key and line.
    """
    from kdsr_arch.options.known import known_faults
    from kdsr_arch.options.values import scale_faults, value_faults

    for note in rename_old_keys(document.values, Options):
        logger.warning("%s: %s", document.source, note)
    opt, faults = parse_section(Options, document.values)
    faults += [*known_faults(document.values), *value_faults(document.values, is_train)]
    for key, sentence in set(scale_faults(document.values)) - set(faults):
        logger.warning("%s: %s: %s%s", document.source, key, sentence, document.where(key))
    first: dict[str, str] = {}
    for key, sentence in faults:
        first.setdefault(key, sentence)  # one sentence for a key: the schema's, if it has one
    if opt is not None and not first:
        return opt
    ordered = sorted(first.items(), key=lambda fault: _line(document, fault[0]))
    raise OptionErrors([f"{key}: {sentence}{document.where(key)}" for key, sentence in ordered], document.source)


def _line(document: Document, key: str) -> int:
    while key and key not in document.lines:
        key = key.rpartition(".")[0]
    return document.lines.get(key, 0)
