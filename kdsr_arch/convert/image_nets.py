"""Convert a file of weights: read it, rename, fit it to the network, and say what is wrong when it does not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdsr_arch.convert.names import State
from kdsr_arch.convert.published import SOURCES, Source, looks_like
from kdsr_arch.convert.reader import read_weights
from kdsr_arch.errors import UserError, nearest
from kdsr_arch.registry import register_all


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
    """The weights of ``path``, which come from ``source``.

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
    """The same for entries in memory."""
    if not source.matches(state):
        lacking = [m.replace("\\", "") for m in source.marks if not _any_starts(m, state)]
        raise UserError(f"is not {source.origin}: it has no entry '{lacking[0]}...'; {describe(state)}")
    params = source.convert(state)
    try:
        network = {"type": source.arch, **source.options(params)}
    except (KeyError, ZeroDivisionError, IndexError) as error:
        raise UserError(f"is not whole for {source.origin}: it lacks {error}; {describe(state)}") from None
    fit(params, build(network), source.origin)
    return Converted(source, params, network)


def _any_starts(mark: str, state: Iterable[str]) -> bool:
    return any(re.match(mark, name) for name in state)


def build(network: Mapping[str, Any], scale: int | None = None) -> nn.Module:
    """The registered network of these options, at ``scale`` where the network takes one and the options name none."""
    register_all()
    from kdsr_arch.registry import ARCH_REGISTRY

    options = dict(network)
    cls = ARCH_REGISTRY.get(options.pop("type"))
    if scale is not None and "scale" not in options and "upscale" not in options and cls.__name__ != "EDVR":
        options["scale"] = scale
    return cls(**options)


def fit(params: State, net: nn.Module, origin: str) -> None:
    """Refuse entries that are not the network's, by name and shape."""
    wanted = net.state_dict()
    faults = [f"unknown entry '{k}'" for k in params if k not in wanted]
    faults += [f"no entry '{k}'" for k in wanted if k not in params]
    faults += [
        f"'{k}' is {tuple(params[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in wanted
        if k in params and params[k].shape != wanted[k].shape
    ]
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise UserError(f"does not fit {type(net).__name__} ({origin}): {'; '.join(faults[:4])}{more}")


def describe(state: Mapping[str, Tensor]) -> str:
    """What a file of these entries looks like, in words."""
    found = looks_like(state)
    if found:
        return "it looks like " + " or ".join(f"'{name}' ({SOURCES[name].origin})" for name in found)
    names = list(state)
    shown = ", ".join(f"{n} {tuple(state[n].shape)}" for n in names[:3])
    return f"it looks like none of the known sources: {len(names)} entries, the first are {shown}"
