"""The training state: everything that a run needs to resume as if nothing had happened, in one file.

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
from kdsr_arch.log import get_logger
from kdsr_arch.options.schema import Options
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


# ------------------------------------------------------------------------------------------------ fingerprint


def fingerprint(opt: Options) -> dict[str, str]:
    """Return what identifies an experiment, each entry as JSON text; keys with '~' may change at a resume."""
    assert opt.train is not None
    values: dict[str, Any] = {"name": opt.name, "model_type": opt.model_type, "scale": opt.scale}
    values |= {key: network.plain() for key, network in opt.networks.items()}
    values |= {"optim_g.type": opt.train.optim_g.type, "terms": sorted(opt.train.distill_opt)}
    values |= {"~manual_seed": opt.manual_seed, "~train": opt.train.plain()}
    values |= {"~datasets.train": opt.datasets["train"].plain()}
    return {k: json.dumps(v, sort_keys=True, default=str) for k, v in values.items()}


def differences(theirs: Mapping[str, str], mine: Mapping[str, str], soft: bool = False) -> list[str]:
    """List the keys in which two fingerprints differ, with both values; of the `soft` ones the names."""
    keys = [k for k in {**theirs, **mine} if k.startswith("~") == soft]
    shown = [(k.lstrip("~"), theirs.get(k, "absent"), mine.get(k, "absent")) for k in keys]
    return [k if soft else f"{k}: {a} there, {b} here" for k, a, b in shown if a != b]


# ------------------------------------------------------------------------------------------------ state files


def load_state(path: Path, mine: Mapping[str, str]) -> dict[str, Any]:
    """Read a training state for the experiment whose fingerprint is `mine`.

    Raises:
        UserError: not a whole training state, BasicSR's own (which holds no weights), or another experiment's.
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
    if different := differences(state["fingerprint"], mine):
        raise UserError(
            f"{path}: the state of another experiment ({'; '.join(different)}); to start from its weights only, "
            "use path.pretrain_network_g"
        )
    return state


def numbered(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """List the files named with an iteration, for which `pattern` has a group; oldest first."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted((int(m[1]), path) for path in entries if (m := re.fullmatch(pattern, path.name)))


def find_latest(folder: Path, mine: Mapping[str, str]) -> tuple[Path | None, dict[str, Any] | None, list[str]]:
    """Read the newest state in `folder` that is whole and of this experiment.

    Returns:
        Its path and content, or two None; and why newer ones were passed over.
    """
    passed: list[str] = []
    for _, path in reversed(numbered(folder, STATES)):
        try:
            return path, load_state(path, mine), passed
        except UserError as error:
            passed.append(str(error))
    return None, None, passed


def find_state(opt: Options, auto_resume: bool) -> dict[str, Any] | None:
    """Read the state to resume from.

    With `auto_resume` that is the newest whole one of this experiment, where there is one; else `path.resume_state`;
    None to start anew.

    Raises:
        UserError: `path.resume_state` is unusable.
    """
    assert opt.train is not None
    mine = fingerprint(opt)
    path, state = None, None
    if auto_resume:
        path, state, passed = find_latest(opt.folder / "training_states", mine)
        for reason in passed:
            get_logger().warning(f"passed over: {reason}")
    if state is None and opt.path.resume_state:
        path = Path(opt.path.resume_state).expanduser()
        state = load_state(path, mine)
    if state is None:
        return None
    get_logger().info(f"Resuming from iteration {state['iter']:,}: {path}")
    if changed := differences(state["fingerprint"], mine, soft=True):
        get_logger().warning(f"These options changed since the state was saved: {', '.join(changed)}")
    before, now = _samples(state["fingerprint"], len(state["random"])), _samples(mine, distributed.world_size())
    if before not in (0, now):
        get_logger().warning(
            f"An iteration took {before} samples when the state was saved and takes {now} now, so training does not go "
            "on with the samples that came next: keep processes x batch_size_per_gpu x accumulation as it was"
        )
    if state["iter"] > opt.train.total_iter:
        raise UserError(f"{path}: is past train.total_iter {opt.train.total_iter:,}")
    return state


def _samples(theirs: Mapping[str, str], processes: int) -> int:
    """Return the samples of one iteration of the experiment with that fingerprint; 0 where it does not say."""
    try:
        dataset, train = (json.loads(theirs[key]) or {} for key in ("~datasets.train", "~train"))
        each = int(dataset.get("batch_size_per_gpu") or 1) * int(train.get("accumulation") or 1)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return 0
    return each * processes


def alike_everywhere(opt: Options, position: int) -> None:
    """Check that all processes train the same from the same iteration on.

    Raises:
        UserError: they read different option files, or do not see the same experiment folder.
    """
    mine = {f"~{k.lstrip('~')}": v for k, v in fingerprint(opt).items() if k != "~datasets.train"}  # folders may differ
    mine["~batch_size_per_gpu"] = str(opt.datasets["train"].batch_size_per_gpu)
    starts = distributed.gather((position, mine))
    if len({where for where, _ in starts}) > 1:
        raise UserError(
            f"the processes would go on from different iterations ({', '.join(f'{where:,}' for where, _ in starts)}): "
            "the folder of experiments must be on a file system that all machines share"
        )
    if changed := [key for _, theirs in starts for key in differences(theirs, starts[0][1], soft=True)]:
        raise UserError(f"the processes read different option files ({changed[0]} differs): give all machines the same")
