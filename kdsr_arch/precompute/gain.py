"""What a teacher's store gains: training steps a second with the live teacher and with the store."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsr_arch.data.loader import open_dataset
from kdsr_arch.data.store.teacher_store import INFO
from kdsr_arch.io import write_whole


@dataclass(frozen=True)
class Gain:
    """Training steps per second with the live teacher and with the store, and the loss of one batch with both."""

    live: float
    stored: float
    live_loss: float
    stored_loss: float

    def __str__(self) -> str:
        return (
            f"steps per second: {self.live:.3g} with the live teacher, {self.stored:.3g} with the store: "
            f"{self.stored / self.live:.1f} x; loss of the first batch {self.live_loss:.6g} and {self.stored_loss:.6g}"
        )


def measure_gain(opt: Mapping[str, Any], store: Path, live_steps: int = 2, stored_steps: int = 8) -> Gain:
    """Train a few steps both ways, on the same batches; nothing is kept."""
    from kdsr_arch.train.checkpoint import random_states_kept

    train = {**opt["datasets"]["train"], "teacher_cache": str(store), "num_worker_per_gpu": 0}
    short = {**opt["train"], "total_iter": max(stored_steps, live_steps)}
    small = {**opt, "datasets": {"train": train}, "train": short}
    with random_states_kept():
        stored, stored_loss = _steps(small, small, stored_steps)
        live, live_loss = _steps({**small, "datasets": {}}, small, live_steps)
    return Gain(live, stored, live_loss, stored_loss)


def _steps(opt: Mapping[str, Any], data: Mapping[str, Any], count: int) -> tuple[float, float]:
    """Steps per second, the first left out, and the total loss of the first."""
    from kdsr_arch.data.loader import train_batches
    from kdsr_arch.train.trainer import build_model, seed_everything

    seed_everything(0)
    batches = train_batches(data, open_dataset(data["datasets"]["train"], "datasets.train"), 0)
    model = build_model(opt)
    first = batches.peek()
    assert first is not None
    model.prepare(first)
    spent, loss = 0.0, 0.0
    for iteration in range(1, count + 1):
        began = time.perf_counter()
        model.update_learning_rate(iteration)
        model.feed_data(next(batches))
        model.optimize_parameters(iteration)
        log = model.get_current_log()  # waits for the device
        if iteration == 1:
            loss = sum(value for name, value in log.items() if name.startswith("l_"))
        if iteration > 1 or count == 1:
            spent += time.perf_counter() - began
    batches.close()
    return max(count - 1, 1) / spent, loss


def record_gain(store: Path, gain: Gain) -> None:
    """Write the gain into the store's ``teacher.json``."""
    file = store / INFO
    info = json.loads(file.read_text(encoding="utf-8")) | {"gain": vars(gain)}
    write_whole(file, lambda handle: handle.write(json.dumps(info).encode()))
