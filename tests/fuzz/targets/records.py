"""Files that runs leave to be read again: history.jsonl, results.json, a teacher store's description."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random

import lmdb

from kdsr_arch.bench.outcomes import note_outcome, outcome
from kdsr_arch.bench.plan import Run
from kdsr_arch.data.store.teacher_store import TeacherStore
from kdsr_arch.errors import UserError
from kdsr_arch.report.training_curves import loss_curve, smooth, val_curve
from kdsr_arch.train.history import History, read_history
from kdsr_arch.upscale.segments import _MAGIC, read_segment
from tests.fuzz.mutate import mutate_bytes, mutate_tree
from tests.fuzz.target import Target

_WORDS = (
    "kind",
    "iter",
    "dataset",
    "val",
    "train",
    "psnr",
    "l_pix",
    "ratio/x",
    "cost",
    "results",
    "mean",
    "protocol",
    "milliseconds",
    "parameters",
    "images",
    "names",
    "orientations",
    "crops",
    "scale",
    "num_frame",
    "times",
    "sizes",
    "numbers",
    "keys",
    "durations",
)


def seeds() -> list[bytes]:
    """Return a history, a results file, a teacher's store."""
    history = [
        {"kind": "train", "iter": 1, "l_pix": 0.5, "lr": [1e-3], "ratio/x": 0.1},
        {"kind": "val", "iter": 2, "dataset": "val", "protocol": "y", "psnr": 30.0},
    ]
    cost = {"milliseconds": 1.0, "parameters": 10, "threads": 1, "device": "cpu", "width": 8, "height": 8, "scale": 4}
    results = {"cost": cost, "results": [{"dataset": "d", "mean": {"psnr": 30.0}, "protocol": "y"}]}
    teacher = {
        "images": {"a": [8, 8]},
        "names": {"output": {"ratio": 2, "channels": 3}},
        "orientations": [0],
        "crops": {"a": [[0, 0, 4, 4]]},
        "scale": 2,
    }
    lines = "\n".join(map(json.dumps, history)) + "\n"
    return [
        lines.encode(),
        *(json.dumps(value).encode() for value in (results, teacher)),
        b"[" * 5000,
        b"1" * 5000,
        b"",
        lines.encode()[:-20],
    ]


def mutate(data: bytes, rng: Random) -> bytes:
    """Change the values of one of the JSON lines."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    try:
        lines[place] = json.dumps(mutate_tree(json.loads(lines[place]), rng, _WORDS)).encode()
    except (ValueError, RecursionError, IndexError):
        return mutate_bytes(data, rng)
    return b"\n".join(lines)


def run(data: bytes, folder: Path) -> None:
    """Read the same bytes with every reader of such files; refused if all of them refuse."""
    (folder / "0.seg").write_bytes(_segment(data))
    read_segment(folder / "0.seg")
    for name in ("history.jsonl", "results.json", "teacher.json"):
        (folder / name).write_bytes(data)
    (folder / "o.yml").write_text("datasets: {val: {name: set}}")
    if len(data) % 4 == 0:
        (folder / "bench_2.json").write_bytes(data)
    refused: list[UserError] = []
    for work in (
        lambda: _history(folder),
        lambda: _teacher(folder),
    ):
        try:
            work()
        except UserError as error:
            refused.append(error)
    if len(refused) == 2:
        raise refused[0]


def _segment(data: bytes) -> bytes:
    """Wrap the bytes as the header of a segment of a video that is being upscaled."""
    return _MAGIC + struct.pack("<Q", len(data) if len(data) % 8 else 1 << 60) + data


def _history(folder: Path) -> None:
    records = list(read_history(folder))
    smooth(loss_curve(records).values, 3)
    val_curve(records)
    run = Run("r", 0, 2, 2, folder / "o.yml", folder)
    outcome(run)
    note_outcome(run, 1.0)
    outcome(run)
    History(folder / "history.jsonl", 1).close()


def _teacher(folder: Path) -> None:
    lmdb.open(str(folder)).close()  # without values, of which the check asks for none
    store = TeacherStore(folder)
    store.check(2, {"a": (8, 8)}, [0], 4)


TARGET = Target(
    "records",
    "history.jsonl, results.json, teacher.json, segments of unfinished videos",
    seeds,
    run,
    mutate,
    structured=0.8,
    max_len=8000,
    share=30,
)
