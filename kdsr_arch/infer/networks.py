"""Networks from options: built by name, filled from checkpoint files."""

from __future__ import annotations

import inspect
import pickle
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdsr_arch.errors import UserError, nearest
from kdsr_arch.io import load_tensors
from kdsr_arch.registry import register_all

# what constructors raise over values that they were not made for, memory that there is not included
_REFUSALS = (
    *(TypeError, ValueError, AssertionError, LookupError, ArithmeticError, AttributeError, RuntimeError, MemoryError),
)
_PARAM_KEYS = ("params_ema", "params", "state_dict", "model")


def registered(registry: Any) -> dict[str, Any]:
    """What one of BasicSR's registries holds, by name; without the suffix that BasicSR gives some of its own."""
    return {name.removesuffix("_basicsr"): thing for name, thing in iter(registry)}


def build_network(opt: Mapping[str, Any], key: str = "network_g") -> nn.Module:
    """Make the registered network that an option describes.

    Args:
        opt: `type` and the keywords of its constructor.
        key: where it stands in the option file, for messages.

    Raises:
        UserError: unknown type, unknown keyword or impossible value.
    """
    from kdsr_arch.registry import ARCH_REGISTRY

    register_all()
    name = opt.get("type")
    known = registered(ARCH_REGISTRY)
    if name not in known:
        raise UserError(f"{key}.type: no network named '{name}'{nearest(str(name), known)}")
    keywords = deepcopy({k: v for k, v in opt.items() if k != "type"})
    try:
        inspect.signature(known[name]).bind(**keywords)
        return known[name](**keywords)
    except _REFUSALS as error:
        raise UserError(f"{key}: {name} refuses these values: {error}") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{key}: a file that {name} is given is damaged, or holds objects other than tensors; not loaded, as they "
            "may run code"
        ) from None
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:  # of a file that its constructor reads
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{key}: {name} cannot be built from these values: {reason}") from None


def _is_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, torch.Tensor) for v in value.values())


def _pick(held: Any, path: Path, param_key: str | None) -> Mapping[str, torch.Tensor]:
    """The weights in a checkpoint; where `param_key` leaves it open the averaged ones are preferred."""
    if param_key is not None and isinstance(held, Mapping):
        if _is_weights(held.get(param_key)):
            return held[param_key]
        part = _part(held, param_key)
        if part:
            return part
        if param_key not in ("params", "params_ema"):  # these two stand in for each other, and for a bare file
            found = ", ".join(map(str, list(held)[:5]))
            raise UserError(f"{path}: no weights under '{param_key}'; its keys: {found}")
    candidates = [held.get(k) for k in _PARAM_KEYS] if isinstance(held, Mapping) else []
    weights = next((c for c in [*candidates, held] if _is_weights(c)), None)
    if weights is None:
        raise UserError(f"{path}: holds no network weights")
    return weights


def _part(held: Mapping[str, Any], name: str) -> dict[str, torch.Tensor]:
    """The weights of the part of a network called `name`: a student starts as the decoder of its teacher."""
    candidates: list[Any] = [*(held.get(k) for k in _PARAM_KEYS), held]
    whole: Mapping[str, torch.Tensor] = next((c for c in candidates if _is_weights(c)), {})
    weights = {k.removeprefix("module."): v for k, v in whole.items()}
    return {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}


def read_weights(path: str | Path, param_key: str | None = None) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint file (.pth or .safetensors) of BasicSR's form, by parameter name.

    Args:
        path: the file.
        param_key: 'params', 'params_ema' (where only the other of the two is there it is taken), another key, or the
            name of a part of the network ('decoder': entries 'decoder.*', without that prefix);
            None: whatever weights there are, the averaged ones first.

    Raises:
        UserError: missing, truncated, not a checkpoint, or without such weights.
    """
    path = Path(path).expanduser()
    weights = _pick(load_tensors(path, "checkpoint"), path, param_key)
    return {k.removeprefix("module."): v for k, v in weights.items()}


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def load_weights(net: nn.Module, path: str | Path, param_key: str | None = None, strict: bool = True) -> None:
    """Fill `net` from a checkpoint file.

    Args:
        strict: every parameter must be found with its shape, and no other; otherwise what fits is taken.

    Raises:
        UserError: the file is unusable (see `read_weights`) or does not fit; the keys are named.
    """
    weights, own = read_weights(path, param_key), net.state_dict()
    missing = [k for k in own if k not in weights]
    foreign = [k for k in weights if k not in own]
    other = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    fitting = {k: v for k, v in weights.items() if k in own and k not in other}
    faults = [f"misses {_some(missing)}"] if missing else []
    faults += [f"has {_some(foreign)}, which the network has not"] if foreign else []
    shapes = [f"{k} {tuple(weights[k].shape)} instead of {tuple(own[k].shape)}" for k in other]
    faults += [f"has other shapes: {_some(shapes)}"] if other else []
    if faults and (strict or not fitting):
        raise UserError(
            f"{path}: does not fit network {type(net).__name__}: {'; '.join(faults)}. Check the network's options, "
            "or set strict_load to false to take what fits"
        )
    net.load_state_dict(fitting, strict=False)


def load_pretrained(net: nn.Module, path_opt: Mapping[str, Any], label: str) -> bool:
    """Fill `net` as `path.pretrain_network_LABEL` and its companions say; returns whether there was anything to load.

    Raises:
        UserError: see `load_weights`.
    """
    path = path_opt.get(f"pretrain_network_{label}")
    if not path:
        return False
    strict = path_opt.get(f"strict_load_{label}")
    try:
        load_weights(net, path, path_opt.get(f"param_key_{label}"), True if strict is None else strict)
    except UserError as error:
        raise UserError(f"path.pretrain_network_{label}: {error}") from None
    return True


def count_parameters(net: nn.Module) -> int:
    """Number of trainable and frozen parameters."""
    return sum(p.numel() for p in net.parameters())
