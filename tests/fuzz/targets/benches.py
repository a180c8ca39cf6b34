"""Bench files, to the option files that they make."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from kdsr_arch.bench.plan import Plan
from tests.fuzz.mutate import json_mutator
from tests.fuzz.target import Target

_BASE = """\
name: small
scale: 2
train: {total_iter: 10, scheduler: {milestones: [5]}, stages: [{iters: 4}, {iters: 6}]}
"""
_WORDS = ("name", "base", "rows", "budgets", "seeds", "jobs", "threads", "common", "before", "continued", "note",
"alone",
          "train.total_iter", "train.scheduler", "train", "name.x", "extra_iter", "iterations", "change", "seed",
          "../base.yml", "base.yml")  # fmt: skip


@cache
def seeds() -> list[bytes]:
    """Return bench files as JSON, which is YAML."""
    rows = {"alone": {"train.distill_opt": None}, "std": {"train.stages": None}, "same": None}
    bench = {
        "name": "b",
        "base": "base.yml",
        "budgets": [5, 20],
        "seeds": [0, 1],
        "rows": rows,
        "jobs": 1,
        "threads": 1,
        "common": {"val.val_freq": 10},
        "note": "x",
    }
    tested = {"bicubic": {"network_g": {"type": "Bicubic", "scale": 4}}}
    before = {"teacher": {"base": "base.yml", "iterations": 7, "change": {"scale": 4}, "seed": 1}}
    small = {"name": "b", "base": "base.yml", "budgets": [5], "rows": {"a": {}}}
    return [
        json.dumps(value).encode()
        for value in (
            bench,
            {**bench, "before": before},
            {**bench, "tested": tested},
            small,
            {**bench, "continued": True, "common": {"train.scheduler": None}},
        )
    ]


def run(data: bytes, folder: Path) -> None:
    """Read it and write the option files of its runs, which lie below experiments/."""
    (folder / "base.yml").write_text(_BASE)
    file = folder / "bench.yml"
    file.write_bytes(data)
    root = folder / "root"
    for run_ in Plan(file, root).runs():
        home = root / ("experiments" if run_.length else "results")
        for place, allowed in ((run_.options, root / "experiments"), (run_.experiment, home)):
            assert place.resolve().is_relative_to(allowed.resolve()), f"{place} leaves {root}"


TARGET = Target("benches", "bench files", seeds, run, json_mutator(lambda: _WORDS), structured=0.95, share=8)
