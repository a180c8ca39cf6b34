"""Which network a file of weights is of, where nothing says so: spandrel's knowledge, then that of the converters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kdsr_arch.convert.published import ANY_SCALE, SOURCES, convert_state, looks_like, own_part
from kdsr_arch.errors import UserError
from kdsr_arch.infer.open import Opened, Unrecognized, find_weights, open_network, opened, read_weights
from kdsr_arch.registry import build


def open_any(
    weights: str | Path | None, network: str | None = None, scale: int | None = None, /, **more: Any
) -> Opened:
    """Open a network as `open_network` does; weights that nobody explains are looked at.

    Args:
        weights, network: as there.
        scale: of weights that are looked at and do not tell theirs.
        more: further arguments of `open_network`, which has a scale of its own.

    Raises:
        UserError: as there, or a file that neither spandrel nor a converter knows.
    """
    try:
        return open_network(weights, network, **more)
    except Unrecognized as unknown:
        path, device = find_weights(str(weights), more.get("root")), more.get("device")
        found = _by_spandrel(path, device) or _by_converters(path, more.get("param_key"), scale, device)
        if found is None:
            raise UserError(f"{unknown}. Neither spandrel (extra 'teachers') nor kdsr convert knows it") from None
    kind = f"{found.net.architecture} of spandrel" if hasattr(found.net, "architecture") else found.network["type"]
    print(f"{path}: nothing says what it is; it looks like {kind}, x{found.traits.scale}", flush=True)
    return found


def _by_spandrel(path: Path, device: torch.device | None) -> Opened | None:
    spec = {"type": "spandrel", "path": str(path)}
    try:
        return opened(build("network", spec, "network"), spec, path, device=device)
    except UserError:  # spandrel is missing, or does not know it
        return None


def _by_converters(path: Path, param_key: str | None, scale: int | None, device: torch.device | None) -> Opened | None:
    """The network of the first converter that can read the file; UserError where only its scale is not known."""
    state = own_part(read_weights(path, param_key), SOURCES.values())
    for name in looks_like(state):
        try:
            done = convert_state(SOURCES[name], state, scale)
        except UserError:
            continue
        if done.scale is None:
            raise UserError(f"{path}: looks like {done.source.origin}, but does not tell its scale: give --scale")
        if done.source.note not in ("", ANY_SCALE):
            print(f"note: {done.source.note}", flush=True)
        net = build("network", done.network, "network")
        net.load_state_dict(done.params)
        return opened(net, done.network, path, done.scale, device)
    return None
