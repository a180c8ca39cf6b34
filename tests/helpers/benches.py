"""A small bench file, and its runs as though they were trained."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from kdsr_arch.bench.outcomes import note_outcome

BASE = {
    "name": "base",
    "model_type": "VideoDistillModel",
    "scale": 4,
    "manual_seed": 0,
    "datasets": {"train": {"type": "ClipDataset", "dataroot_gt": "clips", "gt_size": 32, "batch_size_per_gpu": 1}},
    "network_g": {"type": "VESPCN"},
    "network_t": {"type": "EDVR"},
    "train": {
        "total_iter": 100,
        "optim_g": {"type": "Adam"},
        "pixel_opt": {"type": "L1Loss"},
        "scheduler": {"type": "MultiStepLR", "milestones": [40, 80]},
        "stages": [{"iters": 60}, {"iters": 40}],
        "distill_opt": {"a": {"type": "L1Loss"}, "b": {"type": "L1Loss"}},
    },
}


def finish(run, psnr: float) -> None:
    run.experiment.mkdir(parents=True)
    records = [
        {"kind": "train", "iter": run.budget, "l_pix": 0.1, "ratio/a": 0.5},
        {"kind": "val", "iter": run.budget, "dataset": "val", "protocol": "Y", "psnr": psnr},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run.experiment / "history.jsonl").write_text(text + '{"kind": "tr')  # a killed run may leave half a line
    note_outcome(run, 12.5)


def with_row(bench: Path, changes: dict) -> None:
    given = yaml.safe_load(bench.read_text())
    given["rows"]["with"] = changes
    bench.write_text(yaml.safe_dump(given))


def as_continued(bench: Path, **changes) -> Path:
    content = yaml.safe_load(bench.read_text()) | {"continued": True} | changes
    bench.write_text(yaml.safe_dump(content))
    return bench
