"""Training by the ordinary trainer, and which of its states is the student: the start is a candidate, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from kdsr_arch.device import pick_device
from kdsr_arch.infer.open import load_weights
from kdsr_arch.io import save_tensors, write_bytes
from kdsr_arch.log import TextLog
from kdsr_arch.options import Options
from kdsr_arch.options.load import load_options
from kdsr_arch.precompute.fill import timed_steps
from kdsr_arch.records import strict_json
from kdsr_arch.registry import build
from kdsr_arch.train.checkpoint import random_states_kept
from kdsr_arch.train.entry import train
from kdsr_arch.train.trainer import Trainer
from kdsr_arch.train.validation import Validator

_TIMED = 6  # steps that tell how many go into the minutes asked for
_LEAST, _MOST = 100, 200_000  # iterations


@dataclass(frozen=True)
class Scores:
    """Mean PSNR on Y of the held-out frames in dB; 0 where there are none.

    Attributes:
        teacher: against what the teacher made of them.
        zoom: of the frames reduced once more, against themselves.
        both: the mean over both, by which states are compared.
    """

    teacher: float
    zoom: float
    both: float


def read_options(option_file: Path, root: Path) -> Options:
    """Read the option file, for training below `root`."""
    return load_options(option_file, is_train=True, root=root)


def iterations_in(minutes: float, opt: Options) -> int:
    """Tell how many iterations take so many minutes here, from a few that are thrown away."""
    data = opt.datasets["train"].model_copy(update={"num_worker_per_gpu": 0})
    trial = opt.model_copy(update={"datasets": {"train": data}, "val": None})
    with random_states_kept(), TextLog():
        rate, _ = timed_steps(Trainer(trial), _TIMED)
    return int(np.clip(60 * minutes * rate, _LEAST, _MOST))


def run_training(opt: Options) -> int:
    """Train, or go on; the exit code."""
    return train(opt, auto_resume=True)


def score(opt: Options, net: nn.Module) -> Scores:
    """Score a network on the held-out frames as the training does."""
    validator = Validator(opt, pick_device(opt.num_gpu))
    result = validator.run(net.to(validator.device), 0, ["val"])["val"]
    values: dict[str, list[float]] = {"teacher": [], "zoom": []}
    for name, value, _ in result.per_item:
        values["zoom" if name.startswith("zoom/") else "teacher"].append(value["psnr"])
    teacher, zoom = (float(np.mean(part)) if part else 0.0 for part in values.values())
    return Scores(teacher, zoom, result.mean["psnr"])


def best_so_far(opt: Options) -> Path | None:
    """Return the file of the best state that a validation saw, if there was one."""
    path = opt.folder / "models" / "net_g_best.pth"
    return path if path.is_file() else None


def load_student(opt: Options, path: Path) -> nn.Module:
    """Build the student and fill it, with averaged weights where there are any."""
    net = build("network", opt.network_g, "network_g")
    load_weights(net, path, "params_ema", option="")
    return net.eval()


def write_student(path: Path, weights: Mapping[str, Tensor], network: Mapping[str, Any], scale: int, why: str) -> None:
    """Write the student as `kdsr upscale` takes it: weights, and beside them the file that says what they are of.

    Args:
        path: the .pth file, which appears last.
        weights: the network's.
        network: as in an option file.
        scale: H / h.
        why: where they are from, for a comment.
    """
    about = strict_json({"scale": scale, "network": dict(network), "param_key": "params"})
    write_bytes(path.with_suffix(".yml"), f"# {why}\n{about}".encode())
    save_tensors({"params": {name: value.detach().cpu() for name, value in weights.items()}}, path)
