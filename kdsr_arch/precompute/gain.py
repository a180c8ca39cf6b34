"""What a teacher's store gains: training steps a second with the live teacher and with the store."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from kdsr_arch.data.store.teacher_store import INFO
from kdsr_arch.distill.taps import Batch
from kdsr_arch.io import write_whole
from kdsr_arch.options.schema import Options
from kdsr_arch.train.checkpoint import random_states_kept
from kdsr_arch.train.distill_model import DistillModel
from kdsr_arch.train.trainer import Trainer


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


def measure_gain(opt: Options, store: Path, live_steps: int = 2, stored_steps: int = 8) -> Gain:
    """Train a few steps both ways, on the same batches; nothing is kept."""
    assert opt.train is not None
    data = opt.datasets["train"].model_copy(update={"teacher_cache": str(store), "num_worker_per_gpu": 0})
    few = opt.train.model_copy(update={"total_iter": max(stored_steps, live_steps)})
    short = opt.model_copy(update={"datasets": {"train": data}, "train": few, "val": None, "manual_seed": 0})
    with random_states_kept():
        stored, stored_loss = _steps(Trainer(short), stored_steps)
        live, live_loss = _steps(LiveTrainer(short), live_steps)
    return Gain(live, stored, live_loss, stored_loss)


class LiveTrainer(Trainer):
    """Draws the crops that the store holds, and runs the teacher on them."""

    def build_model(self, sample: Batch) -> DistillModel:
        """Build what is trained, without the store."""
        return DistillModel(self.opt.model_copy(update={"datasets": {}}), sample)


def _steps(trainer: Trainer, count: int) -> tuple[float, float]:
    """Steps per second, the first left out, and the total loss of the first."""
    spent, loss = 0.0, 0.0
    for iteration in range(1, count + 1):
        began = time.perf_counter()
        trainer.step(iteration)
        figures = trainer.figures()  # waits for the device
        if iteration == 1:
            loss = sum(value for name, value in figures.items() if name.startswith("l_"))
        if iteration > 1 or count == 1:
            spent += time.perf_counter() - began
    trainer.close()
    return max(count - 1, 1) / spent, loss


def record_gain(store: Path, gain: Gain) -> None:
    """Write the gain into the store's ``teacher.json``."""
    file = store / INFO
    info = json.loads(file.read_text(encoding="utf-8")) | {"gain": vars(gain)}
    write_whole(file, lambda handle: handle.write(json.dumps(info).encode()))
