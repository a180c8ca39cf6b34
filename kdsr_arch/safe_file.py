"""Network weights as safetensors: bytes and shapes alone, which no reader can mistake for code.

A training's file holds what BasicSR's .pth holds, each entry under the name of its group (``params.conv.weight``,
``params_ema.conv.weight``); its metadata names the groups, the network with its scale, and the SHA-256 of the tensors.
A file without groups, as `kdsr export` and other programs write it, is a plain state dict.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.files import write_whole

SUFFIX = ".safetensors"
_GROUPS, _DIGEST, _ABOUT = "kdsr_groups", "kdsr_sha256", "kdsr"
_INSTALL = 'pip install safetensors (or "kdsr[export]")'


def require_safetensors(key: str) -> None:
    """Refuse an option that needs the package where it is not installed.

    Raises:
        UserError: it is not.
    """
    try:
        import safetensors  # noqa: F401
    except ImportError:
        raise UserError(f"{key}: the package safetensors is not installed: {_INSTALL}") from None


def write_groups(
    groups: Mapping[str, Mapping[str, Tensor]], path: Path, about: Mapping[str, Any] | None = None
) -> None:
    """Write {'params': weights, 'params_ema': weights, ...}, whole or not at all.

    Args:
        groups: state dicts by group; names of groups hold no dot.
        path: the file, ending in .safetensors.
        about: what `kdsr upscale` and `kdsr export` need to build the network without its option file: `network` (type
            and keywords) and `scale`.

    Raises:
        UserError: an entry is no tensor, or the file cannot be written.
    """
    from safetensors.torch import save

    tensors = {f"{group}.{name}": value for group, weights in groups.items() for name, value in weights.items()}
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{path}: '{name}' is no tensor, which safetensors cannot hold; use logger.checkpoint_format: pth"
            )
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    told = {"format": "pt", _GROUPS: json.dumps(list(groups)), _DIGEST: _digest(tensors)}
    held = save(tensors, metadata={**told, **({_ABOUT: json.dumps(about)} if about else {})})
    write_whole(path, lambda handle: handle.write(held))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, as they stand in it.

    Raises:
        UserError: missing, truncated, damaged, or no such file.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise UserError(f"{path}: reading it needs the package safetensors: {_INSTALL}") from None
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            told = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: truncated, damaged or no safetensors file ({error})") from None
    if _DIGEST in told and told[_DIGEST] != _digest(tensors):
        raise UserError(f"{path}: damaged: its tensors do not match their checksum; copy or download it again")
    return tensors, told


def read_groups(path: Path) -> dict[str, Any]:
    """The content in the form of BasicSR's .pth: {'params': weights, ...}, or a plain state dict where there are no
    groups.

    Raises:
        UserError: see `read_safetensors`; or metadata that do not fit the tensors.
    """
    tensors, told = read_safetensors(path)
    if _GROUPS not in told:
        return dict(tensors)
    groups: dict[str, Any] = {name: {} for name in _group_names(told[_GROUPS], path)}
    for name, value in tensors.items():
        group, _, key = name.partition(".")
        if group not in groups:
            raise UserError(f"{path}: damaged: '{name}' belongs to none of the groups that its metadata name")
        groups[group][key] = value
    return groups


def _group_names(text: str, path: Path) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: damaged: its metadata cannot be read; copy or download it again")
    return names


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, kinds, shapes and bytes (the format itself has no checksum)."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
