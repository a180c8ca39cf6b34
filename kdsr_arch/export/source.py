"""A trained network from its weights and from whatever says which network they belong to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kdsr_arch.errors import UserError
from kdsr_arch.infer.networks import build_network, load_weights
from kdsr_arch.infer.traits import Traits, traits_of
from kdsr_arch.io import SAFETENSORS, read_safetensors

METADATA_KEY = "kdsr"


@dataclass(frozen=True)
class Student:
    """A network ready to leave.

    Attributes:
        net: in evaluation mode, on the CPU.
        traits: how it is called.
        network: its type and keywords, as in an option file.
        weights: the file it was filled from.
        digest: SHA-256 of that file.
    """

    net: nn.Module
    traits: Traits
    network: dict[str, Any]
    weights: Path
    digest: str


def open_student(
    weights: str | Path,
    *,
    option_file: str | Path | None = None,
    network: str | None = None,
    scale: int | None = None,
    param_key: str | None = None,
) -> Student:
    """Build the network of a file of weights and fill it.

    Args:
        weights: .pth in BasicSR's form, or .safetensors, ours or another's.
        option_file: its ``network_g`` and ``scale``. Absent: what a .safetensors file says of itself, or the file
            that lies in the experiment's folder beside the weights.
        network: the network in YAML, such as ``{type: FSRCNN, scale: 4}``, in place of an option file.
        scale: of networks that do not know it.
        param_key: 'params' or 'params_ema'; absent: the averaged ones where there are any.

    Raises:
        UserError: no such file, no weights, pickled code, an unknown or another network.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    spec, found_scale = _spec(path, option_file, network)
    net = build_network(spec, "network")
    if path.suffix.lower() == SAFETENSORS or not getattr(net, "pretrained", False):
        load_weights(net, path, param_key)
    net.eval().requires_grad_(False)
    traits = traits_of(net, scale or found_scale)
    return Student(net, traits, spec, path, hashlib.sha256(path.read_bytes()).hexdigest())


def _spec(path: Path, option_file: str | Path | None, network: str | None) -> tuple[dict[str, Any], int | None]:
    """The network's options, and the experiment's scale where an option file tells it."""
    if network is not None:
        return parsed_network(network), None
    if option_file is not None:
        return _from_option_file(Path(option_file))
    if path.suffix.lower() == SAFETENSORS:
        told = read_metadata(read_safetensors(path)[1], path)
        if told is not None:
            return dict(told["network"]), int(told["scale"])
    beside = option_file_of(path)
    if beside is None:
        raise UserError(
            f"{path}: which network is it? Give its option file (-opt FILE) or the network itself "
            "(--network '{type: FSRCNN, scale: 4}')"
        )
    return _from_option_file(beside)


def option_file_of(weights: Path) -> Path | None:
    """The file that tells the network of ``weights``, if there is one.

    It is the YAML file of the same name beside them, or the option file of the experiment (NAME/models/net_g_N.pth).
    """
    if weights.with_suffix(".yml").is_file():
        return weights.with_suffix(".yml")
    folder = weights.resolve().parent
    found = sorted((folder.parent if folder.name == "models" else folder).glob("*.yml"))
    return found[0] if len(found) == 1 else None


def parsed_network(text: str) -> dict[str, Any]:
    """The network that a text such as ``{type: FSRCNN, scale: 4}`` names.

    Raises:
        UserError: it is no YAML, or names none.
    """
    from kdsr_arch.options import parse_value

    try:
        spec = parse_value(text)
    except UserError:
        spec = None
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        raise UserError(f"--network '{text[:200]}': not a network in YAML, such as '{{type: FSRCNN, scale: 4}}'")
    return spec


def _from_option_file(path: Path) -> tuple[dict[str, Any], int | None]:
    from kdsr_arch.options import load_yaml

    options = load_yaml(path)
    spec = options.get("network_g", options.get("network"))
    if not isinstance(spec, Mapping) or not isinstance(spec.get("type"), str):
        raise UserError(f"{path}: has neither network_g nor network with a type")
    scale = options.get("scale")
    return dict(spec), scale if isinstance(scale, int) else None


def read_metadata(held: Mapping[str, str], path: Path) -> dict[str, Any] | None:
    """What an exported file says of itself; None where it says nothing."""
    if METADATA_KEY not in held:
        return None
    try:
        told = json.loads(held[METADATA_KEY])
    except (ValueError, RecursionError):
        told = None
    network, scale = (told.get("network"), told.get("scale")) if isinstance(told, dict) else (None, None)
    if not isinstance(network, dict) or not isinstance(network.get("type"), str) or not isinstance(scale, int):
        raise UserError(f"{path}: its metadata cannot be read; export it again")
    return told
