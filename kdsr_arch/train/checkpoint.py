"""The training state: everything that a run needs to resume as if nothing had happened, in one file.

A state file is whole by itself: weights, averages, optimizers, schedules, adapters and other train-only modules,
gradient scaler, random states of every process, position and best results, beside a fingerprint of the experiment. It
holds tensors and plain containers only, so reading one runs no code.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdsr_arch.errors import UserError
from kdsr_arch.io import load_tensors
from kdsr_arch.parallel import distributed

FORMAT = "kdsr-training-state"
VERSION = 1
STATES = r"(\d+)\.state"


# ---------------------------------------------------------------------------------------------- random states


def random_states() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's generators, in plain values."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    numbers = torch.from_numpy(np.asarray(keys).astype(np.int64))
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [str(name), numbers, int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Any]) -> None:
    """Go back to what `random_states` returned."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put the random states back at the end, so that a validation or dry run leaves no trace in the training."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


# ---------------------------------------------------------------------------------------------- passing buffers


class PassingBuffers:
    """The buffers that no state dict holds (``persistent=False``), as far as training has moved them.

    Constants among them are left out: they are those that the present options make, after a resume as well.

    Args:
        parts: what is trained, by name, as it was built.
        whole: the names of those of which no state dict is saved, so that persistent buffers count as well.
    """

    def __init__(self, parts: Mapping[str, nn.Module], whole: Sequence[str] = ()) -> None:
        self._parts, self._whole = parts, whole
        self._built = {key: value.detach().clone() for key, _, _, value in self._walk() if value is not None}

    def _walk(self) -> Iterator[tuple[str, nn.Module, str, Tensor | None]]:
        for part, net in self._parts.items():
            for path, module in net.named_modules():
                for name, value in module._buffers.items():
                    if part in self._whole or name in module._non_persistent_buffers_set:
                        yield f"{part}.{path}.{name}", module, name, value

    def state(self) -> dict[str, Tensor]:
        """Return those that are no longer what they were built as."""
        now = {key: value for key, _, _, value in self._walk() if value is not None}
        return {k: v for k, v in now.items() if k not in self._built or not torch.equal(v, self._built[k])}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned; what has gone from the modules since is passed over."""
        for key, module, name, value in [*self._walk()]:
            saved = state.get(key)
            if saved is None:
                continue
            if value is not None and value.shape == saved.shape:
                value.copy_(saved)  # in place: views of it may be in use
            else:
                like = next((t for t in (value, *module.buffers(), *module.parameters()) if t is not None), saved)
                module._buffers[name] = saved.to(like.device)


# ------------------------------------------------------------------------------------------------ state files


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state.

    Raises:
        UserError: not a whole training state, or BasicSR's own (which holds no weights).
    """
    state = load_tensors(path, "training state")
    is_dict = isinstance(state, dict)
    if is_dict and {"iter", "optimizers", "schedulers"} <= set(state) and "format" not in state:
        weights = path.parent.parent / "models" / f"net_g_{state['iter']}.pth"
        raise UserError(
            f"{path}: a training state of BasicSR itself, which holds no weights and cannot be continued exactly; "
            f"start from its network with path.pretrain_network_g: {weights}"
        )
    if not is_dict or state.get("format") != FORMAT:
        raise UserError(f"{path}: not a training state")
    if type(state.get("version")) is int and state["version"] > VERSION:
        raise UserError(f"{path}: written by a newer release (state version {state['version']}); update this one")
    kinds = {"version": int, "iter": int, "fingerprint": dict, "model": dict, "random": list}
    kinds |= {"best": dict, "ranking": dict, "meter": list, "ratios": dict, "skipped": list}
    wrong = [name for name, kind in kinds.items() if type(state.get(name)) is not kind]
    texts = {} if "fingerprint" in wrong else state["fingerprint"]
    if not all(isinstance(text, str) for pair in texts.items() for text in pair):
        wrong.append("fingerprint")
    if "iter" not in wrong and state["iter"] < 0:
        wrong.append("iter")
    if wrong:
        raise UserError(f"{path}: a damaged training state: its {wrong[0]} cannot be read; resume from another")
    return state


def numbered(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """List the files named with an iteration, for which `pattern` has a group; oldest first."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted((int(m[1]), path) for path in entries if (m := re.fullmatch(pattern, path.name)))


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed Python's, NumPy's and torch's generators, differently on each process (initial weights are broadcast).

    Args:
        seed: `manual_seed`.
        deterministic: choose kernels that give the same bits every time, not the fastest ones.
    """
    seed = (seed + distributed.rank()) % 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS at its first product
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic
