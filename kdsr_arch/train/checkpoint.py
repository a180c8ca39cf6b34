"""The training state: everything that a run needs to go on as if nothing had happened, in one file.

A state file is whole by itself: weights, averages, optimizers, schedules, adapters and other train-only modules,
gradient scaler, random states of every process, position and best results, beside a fingerprint of the experiment. It
holds tensors and plain containers only, so reading one runs no code.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdsr_arch.errors import UserError
from kdsr_arch.io import load_tensors

FORMAT = "kdsr-training-state"
VERSION = 1
_HARD = ("name", "model_type", "scale", "optim_g.type")  # with every network_*: what makes a state another experiment's
_SOFT = ("manual_seed", "train", "datasets.train")


# ---------------------------------------------------------------------------------------------- random states


def random_states() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, in plain values."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
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
    """Whatever draws random numbers inside leaves no trace in the training outside (validation, dry run)."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


# ------------------------------------------------------------------------------------------------ fingerprint


def _look_up(opt: Mapping[str, Any], dotted: str) -> Any:
    value: Any = opt
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def fingerprint(opt: Mapping[str, Any]) -> dict[str, str]:
    """What identifies an experiment: its name, networks, ... each as JSON text."""
    hard = {k: _look_up(opt, f"train.{k}" if k.startswith("optim") else k) for k in _HARD}
    hard |= {k: v for k, v in opt.items() if k.startswith("network_")}
    hard["terms"] = sorted(_look_up(opt, "train.distill_opt") or {})
    soft = {f"~{k}": _look_up(opt, k) for k in _SOFT}
    return {k: json.dumps(v, sort_keys=True, default=str) for k, v in (hard | soft).items()}


def differences(theirs: Mapping[str, str], mine: Mapping[str, str], soft: bool = False) -> list[str]:
    """The keys in which two fingerprints differ, as `key: theirs -> mine`; the `soft` ones may change at a resume."""
    keys = [k for k in {**theirs, **mine} if k.startswith("~") == soft]
    shown = [(k.lstrip("~"), theirs.get(k, "absent"), mine.get(k, "absent")) for k in keys]
    if soft:
        return [k for k, a, b in shown if a != b]
    return [f"{k}: {a} there, {b} here" for k, a, b in shown if a != b]


# ------------------------------------------------------------------------------------------------ state files


def _is_basicsr(state: Any) -> bool:
    return isinstance(state, dict) and {"iter", "optimizers", "schedulers"} <= set(state) and "format" not in state


def load_state(path: Path, mine: Mapping[str, str]) -> dict[str, Any]:
    """Read a training state for the experiment whose fingerprint is `mine`.

    Raises:
        UserError: not a whole training state, BasicSR's own (which holds no weights), or another experiment's.
    """
    state = load_tensors(path, "training state")
    if _is_basicsr(state):
        weights = path.parent.parent / "models" / f"net_g_{state['iter']}.pth"
        raise UserError(
            f"{path}: a training state of BasicSR itself, which holds no weights and cannot be continued exactly; "
            f"start from its network with path.pretrain_network_g: {weights}"
        )
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: not a training state")
    if type(state.get("version")) is int and state["version"] > VERSION:
        raise UserError(f"{path}: written by a newer release (state version {state['version']}); update this one")
    _check_form(state, path)
    found = differences(state["fingerprint"], mine)
    if found:
        raise UserError(
            f"{path}: the state of another experiment ({'; '.join(found)}); to start from its weights only, "
            "use path.pretrain_network_g"
        )
    return state


def _check_form(state: Mapping[str, Any], path: Path) -> None:
    """Raises UserError unless the parts that are read here and in the loop are what `Checkpoints.save` writes."""
    kinds = {"version": int, "iter": int, "fingerprint": dict, "model": dict, "random": list, "best": dict}
    kinds |= {name: dict for name in ("ranking",) if name in state}  # states of earlier releases have none
    wrong = [name for name, kind in kinds.items() if type(state.get(name)) is not kind]
    held = {} if "fingerprint" in wrong else state["fingerprint"]
    if not all(isinstance(text, str) for pair in held.items() for text in pair):
        wrong.append("fingerprint")
    if "iter" not in wrong and state["iter"] < 0:
        wrong.append("iter")
    if wrong:
        raise UserError(f"{path}: a damaged training state: its {wrong[0]} cannot be read; resume from another")


def numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """Files named with an iteration, `pattern` holding one group for it; oldest first."""
    entries = folder.iterdir() if folder.is_dir() else ()
    found = {int(m[1]): p for p in entries if (m := re.fullmatch(pattern, p.name))}
    return dict(sorted(found.items()))


def find_latest(folder: Path, mine: Mapping[str, str]) -> tuple[Path | None, dict[str, Any] | None, list[str]]:
    """The newest state in `folder` that is whole and of this experiment.

    Returns:
        Its path and content, or two None; and why newer ones were passed over.
    """
    passed: list[str] = []
    for path in reversed(numbered(folder, r"(\d+)\.state").values()):
        try:
            return path, load_state(path, mine), passed
        except UserError as error:
            passed.append(str(error))
    return None, None, passed
