"""Reading weights as others store them: state dicts in torch files, arrays in npz files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsr_arch.convert.names import State
from kdsr_arch.errors import UserError
from kdsr_arch.io import load_tensors

WRAPPERS = ("params_ema", "params", "state_dict", "model", "net", "generator")


def read_weights(path: Path) -> State:
    """The tensors of a weights file by name, without the wrappers and prefixes that training code adds.

    Args:
        path: a torch file of a state dict, or an npz file of arrays.

    Raises:
        UserError: missing, damaged, or no weights in it.
    """
    content = _read_npz(path) if path.suffix == ".npz" else load_tensors(path, "weights file")
    state = _unwrap(content)
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        found = ", ".join(str(k) for k in list(state)[:5]) or type(content).__name__
        raise UserError(f"{path}: holds no tensors by name (it holds {found}): expected the state dict of a network")
    while all(name.startswith("module.") for name in tensors):  # DataParallel
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _read_npz(path: Path) -> State:
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged or no npz file of arrays ({error})") from None


def _unwrap(content: Any) -> Mapping[str, Any]:
    while isinstance(content, Mapping):
        inner = next((content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            return content
        content = inner
    return {}
