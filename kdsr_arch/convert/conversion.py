"""Convert a file of weights: read it, rename, fit it to the network, and say what is wrong when it does not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kdsr_arch.convert.names import State
from kdsr_arch.convert.published import SOURCES, Source, looks_like
from kdsr_arch.errors import UserError, nearest
from kdsr_arch.infer.open import misfits, read_weights
from kdsr_arch.registry import build


@dataclass(frozen=True)
class Converted:
    """Weights under this project's names.

    Attributes:
        source: where they come from.
        params: the state dict.
        network: the options of the network they fit ('type' and keywords), as far as the weights tell them.
    """

    source: Source
    params: State
    network: dict[str, Any]


def convert_file(source: str, path: Path) -> Converted:
    """Convert the weights of ``path``, which come from ``source``.

    Args:
        source: a key of ``SOURCES``.
        path: a file of torch.save or .safetensors of a state dict, or .npz of arrays.

    Raises:
        UserError: an unknown source, an unreadable file, or a file of something else; then the message says what it
            looks like and which entries differ.
    """
    if source not in SOURCES:
        raise UserError(f"unknown source '{source}'{nearest(source, SOURCES)}: use one of {', '.join(SOURCES)}")
    state = read_weights(path)
    try:
        return convert_state(SOURCES[source], state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def convert_state(source: Source, state: Mapping[str, Tensor]) -> Converted:
    """Convert entries in memory.

    Raises:
        UserError: they are not of this source, or not whole.
    """
    if not source.matches(state):
        lacking = [m.replace("\\", "") for m in source.marks if not _any_starts(m, state)]
        raise UserError(f"is not {source.origin}: it has no entry '{lacking[0]}...'; {describe(state)}")
    params = source.convert(state)
    try:
        network = {"type": source.arch, **source.options(params)}
    except (KeyError, ZeroDivisionError, IndexError) as error:
        raise UserError(f"is not whole for {source.origin}: it lacks {error}; {describe(state)}") from None
    net = build("network", network, "network")
    faults = misfits(net, params)
    if faults:
        raise UserError(f"does not fit {type(net).__name__} ({source.origin}): {'; '.join(faults)}")
    return Converted(source, params, network)


def _any_starts(mark: str, state: Iterable[str]) -> bool:
    return any(re.match(mark, name) for name in state)


def describe(state: Mapping[str, Tensor]) -> str:
    """Say what a file of these entries looks like."""
    sources = looks_like(state)
    if sources:
        return "it looks like " + " or ".join(f"'{name}' ({SOURCES[name].origin})" for name in sources)
    names = list(state)
    shown = ", ".join(f"{n} {tuple(state[n].shape)}" for n in names[:3])
    return f"it looks like none of the known sources: {len(names)} entries, the first are {shown}"
