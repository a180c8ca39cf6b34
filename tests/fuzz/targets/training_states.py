"""Training states that are sound files of torch.save with unsound content."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from kdsr_arch.train.checkpoint import FORMAT, VERSION, random_states, random_states_kept
from kdsr_arch.train.resume import find_state, fingerprint
from kdsr_arch.train.trainer import Trainer
from tests.fuzz.mutate import HOSTILE, mutate_bytes, mutate_tree
from tests.fuzz.target import Target
from tests.helpers.options import make_options
from tests.helpers.trainers import make_trainer, train

_TENSORS = (
    torch.zeros(0),
    torch.zeros(1),
    torch.tensor(float("nan")),
    torch.zeros(2, 3, dtype=torch.int64),
    torch.zeros(5056, dtype=torch.uint8),
)
_OPTIONS: dict[str, Any] = {
    "name": "t", "scale": 2, "network_g": {"type": "FSRCNN", "scale": 2, "d": 4, "s": 2, "m": 1},
    "train": {"total_iter": 10, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"},
              "scheduler": {"type": "MultiStepLR", "milestones": [5], "gamma": 0.5}},
}  # fmt: skip


@cache
def _trainer() -> Trainer:
    batch = {"lq": torch.rand(1, 3, 8, 8), "gt": torch.rand(1, 3, 16, 16)}
    trainer = make_trainer(_OPTIONS, batch)
    train(trainer, [batch])
    return trainer


def _bytes(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@cache
def seeds() -> list[bytes]:
    """Return a sound state, one of BasicSR, and the head alone."""
    head = {"format": FORMAT, "version": VERSION, "iter": 3, "fingerprint": fingerprint(make_options(_OPTIONS))}
    best = {"best": {"val": {"psnr": {"value": 30.0, "iter": 2}}}, "ranking": {"psnr": [{"value": 30.0, "iter": 2}]}}
    state = {**head, **_trainer().training_state([random_states()]), **best}
    return [_bytes(state), _bytes({"iter": 5, "optimizers": [], "schedulers": []}), _bytes(head), _bytes([1])]


def mutate(data: bytes, rng: Random) -> bytes:
    """Change values inside the state, tensors included, and save it as a sound file."""
    try:
        state = torch.load(io.BytesIO(data), weights_only=True)
    except Exception:
        return mutate_bytes(data, rng)
    if not isinstance(state, dict | list):
        return data
    words = (
        *("net_g", "train_only", "optimizer", "schedule", "scaler", "meter", "ratios", "skipped", "random", "best"),
        *("ranking", "iter", "version"),
    )
    return _bytes(mutate_tree(state, rng, words, (*HOSTILE, *_TENSORS)))


def run(data: bytes, folder: Path) -> None:
    """Find it, check it and resume from it, as `kdsr train --auto_resume` does."""
    file = folder / "3.state"
    file.write_bytes(data)
    trainer = _trainer()
    opt = make_options({**_OPTIONS, "path": {"resume_state": str(file)}})
    with random_states_kept():
        state = find_state(opt, trainer.model, auto_resume=False, mine=fingerprint(opt))
        assert state is not None
        trainer.resume(state.content, state.schedule_anew)


TARGET = Target(
    "training_states",
    "training states whose content is not what it should be",
    seeds,
    run,
    mutate,
    structured=1.0,
    max_len=200_000,
    share=5,
)
