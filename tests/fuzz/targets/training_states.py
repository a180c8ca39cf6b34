"""Training states that are sound files of torch.save, but say something else than a state should."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import torch

from kdsr_arch.train.checkpoint import FORMAT, VERSION, fingerprint, random_states, random_states_kept
from kdsr_arch.train.distill_model import ImageDistillModel
from kdsr_arch.train.loop import Loop
from kdsr_arch.train.trainer import find_state
from kdsr_arch.train.validation import Best
from tests.fuzz.mutate import HOSTILE, mutate_bytes, mutate_tree
from tests.fuzz.target import Target

_TENSORS = (
    torch.zeros(0),
    torch.zeros(1),
    torch.tensor(float("nan")),
    torch.zeros(2, 3, dtype=torch.int64),
    torch.zeros(5056, dtype=torch.uint8),
)
_OPTIONS: dict[str, Any] = {
    "name": "t", "model_type": "ImageDistillModel", "scale": 2, "num_gpu": 0, "manual_seed": 0, "is_train": True,
    "path": {}, "network_g": {"type": "FSRCNN", "scale": 2, "d": 4, "s": 2, "m": 1}, "logger": {}, "datasets": {},
    "train": {"total_iter": 10, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"},
              "scheduler": {"type": "MultiStepLR", "milestones": [5], "gamma": 0.5}},
}  # fmt: skip


@cache
def _model() -> ImageDistillModel:
    model = ImageDistillModel(_OPTIONS)
    batch = {"lq": torch.rand(1, 3, 8, 8), "gt": torch.rand(1, 3, 16, 16)}
    model.prepare(batch)
    model.update_learning_rate(1)
    model.feed_data(batch)
    model.optimize_parameters(1)
    return model


def _bytes(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@cache
def seeds() -> list[bytes]:
    """A sound state, one of BasicSR, and the head alone."""
    head = {"format": FORMAT, "version": VERSION, "iter": 3, "fingerprint": fingerprint(_OPTIONS)}
    best = {"records": {"val": {"psnr": {"value": 30.0, "iter": 2}}}, "ranking": {"psnr": [{"value": 30.0, "iter": 2}]}}
    state = {
        **head,
        "model": _model().training_state(),
        "random": [random_states()],
        "best": best["records"],
        "ranking": best["ranking"],
    }
    return [_bytes(state), _bytes({"iter": 5, "optimizers": [], "schedulers": []}), _bytes(head), _bytes([1])]


def mutate(data: bytes, rng: Random) -> bytes:
    """Changes values inside the state, tensors included, and saves it as a sound file."""
    try:
        state = torch.load(io.BytesIO(data), weights_only=True)
    except Exception:
        return mutate_bytes(data, rng)
    if not isinstance(state, dict | list):
        return data
    words = ("net_g", "train_only", "optimizer", "schedule", "scaler", "random", "best", "ranking", "iter", "version")
    return _bytes(mutate_tree(state, rng, words, (*HOSTILE, *_TENSORS)))


def run(data: bytes, folder: Path) -> None:
    """Find it, judge it, and go on from it, as `kdsr train --auto_resume` does."""
    file = folder / "3.state"
    file.write_bytes(data)
    state = find_state({**_OPTIONS, "path": {"resume_state": str(file)}}, folder, auto_resume=False)
    assert state is not None
    loop: Any = Loop.__new__(Loop)
    loop.model, loop.seed, loop.position, loop.validator = _model(), 0, state["iter"], SimpleNamespace(best=Best())
    with random_states_kept():
        loop.resume(state)


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
