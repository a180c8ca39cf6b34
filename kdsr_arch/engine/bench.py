"""`kdsr bench FILE`: rows x seeds x budgets from one YAML file, trained alike, resumable, with mean and spread.

A bench file names one base option file and, per row, what differs from it::

    name: std_demo
    base: ../train_std.yml
    seeds: [0, 1, 2]
    budgets: [500, 2000]            # total_iter of the runs
    jobs: 2                         # runs side by side
    threads: 1                      # CPU threads of each run
    common: {val.val_freq: 100000}  # overrides of every row: dotted keys, null removes a key
    rows:
      alone:  {network_t: null, train.distill_opt: null}
      output: {train.distill_opt: {output: {type: L1Loss, loss_weight: 1.0}}}
      std:    {}

Every run is an ordinary `kdsr train` in a process of its own, with its own option file, so that each can be repeated
alone. A finished run is never repeated; an interrupted one resumes.
"""

from __future__ import annotations

import concurrent.futures
import copy
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdsr_arch.errors import UserError, nearest

_KEYS = {"name", "base", "seeds", "budgets", "jobs", "threads", "common", "rows", "note"}


@dataclass(frozen=True)
class Run:
    """One training of the bench."""

    row: str
    seed: int
    budget: int
    options: Path
    experiment: Path

    @property
    def label(self) -> str:
        return f"{self.row}, seed {self.seed}, {self.budget} iterations"

    @property
    def log(self) -> Path:
        return self.experiment / "history.jsonl"


def read_bench(path: Path) -> dict[str, Any]:
    """Read and check a bench file.

    Raises:
        UserError: the file is missing, not YAML, lacks a key or has an unknown one.
    """
    from kdsr_arch.engine.options import load_yaml

    bench = load_yaml(path)
    for key in bench:
        if key not in _KEYS:
            raise UserError(f"{path}: unknown key '{key}'{nearest(key, _KEYS)}")
    for key in ("name", "base", "rows", "budgets"):
        if key not in bench:
            raise UserError(f"{path}: the key '{key}' is missing")
    for row, overrides in bench["rows"].items():
        if overrides is not None and not isinstance(overrides, dict):
            raise UserError(f"{path}: rows.{row} must map dotted option keys to values")
    return {"seeds": [0], "jobs": 1, "threads": 1, "common": {}, **bench}


def override(options: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
    """A copy of ``options`` with dotted keys replaced; a value of None removes the key."""
    result = copy.deepcopy(options)
    for dotted, value in (changes or {}).items():
        *parents, last = dotted.split(".")
        node = result
        for part in parents:
            node = node.setdefault(part, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = copy.deepcopy(value)
    return result


def set_budget(options: dict[str, Any], budget: int) -> None:
    """Set `train.total_iter` and stretch what is counted in iterations with it: cosine periods, milestones, stages.

    Warm-ups and ramps of terms are left as they are: a method's start does not depend on how long it goes on.
    """
    train = options["train"]
    factor = budget / train["total_iter"]
    train["total_iter"] = budget
    scheduler = train.get("scheduler") or {}
    for key in ("periods", "milestones", "restarts"):
        if key in scheduler:
            scheduler[key] = [round(value * factor) for value in scheduler[key]]
    for stage in train.get("stages") or ():
        stage["iters"] = round(stage["iters"] * factor)


def plan_runs(bench: dict[str, Any], path: Path, root: Path) -> list[Run]:
    """Write one option file per (row, seed, budget) under experiments/bench/NAME/options and list the runs."""
    from kdsr_arch.engine.options import load_yaml

    base = load_yaml((path.parent / bench["base"]).resolve())
    folder = root / "experiments" / "bench" / bench["name"]
    runs = []
    for budget in bench["budgets"]:
        for seed in bench["seeds"]:
            for row, changes in bench["rows"].items():
                label = re.sub(r"[^\w.-]+", "_", f"{row}_s{seed}_{budget}")
                name = f"bench/{bench['name']}/{label}"
                options = override(override(base, bench["common"]), changes)
                options["name"], options["manual_seed"] = name, seed
                set_budget(options, budget)
                file = folder / "options" / f"{label}.yml"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
                runs.append(Run(row, seed, budget, file, root / "experiments" / name))
    return runs


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a history.jsonl, whole lines only: a run that was killed may have left half a line."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def outcome(run: Run) -> dict[str, Any] | None:
    """The validation of a finished run at its last iteration, its mean term ratios and its speed; else None."""
    final: dict[str, dict[str, Any]] = {}
    ratios: dict[str, list[float]] = {}
    for record in read_log(run.log):
        if record["kind"] == "val":
            if record["iter"] >= run.budget:
                final[record["dataset"]] = {k: v for k, v in record.items() if k not in ("kind", "iter", "dataset")}
            continue
        for key, value in record.items():
            if key.startswith("ratio/"):
                ratios.setdefault(key, []).append(value)
    if not final:
        return None
    marker = run.experiment / "bench_seconds.txt"
    seconds = float(marker.read_text()) if marker.exists() else None
    return {"row": run.row, "seed": run.seed, "budget": run.budget, "val": final, "seconds": seconds,
            "ratios": {key: sum(values) / len(values) for key, values in ratios.items()}}


def train_once(run: Run, threads: int, root: Path) -> str | None:
    """Train one run to its end (resuming it when it had begun); returns the tail of its output when it failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "kdsr_arch.cli", "train", "-opt", str(run.options), "--auto_resume"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return (done.stdout + done.stderr)[-2000:]
    (run.experiment / "bench_seconds.txt").write_text(f"{time.perf_counter() - began:.1f}")
    return None


def run_bench(
    path: Path, *, root: Path, jobs: int | None = None, only: list[str] | None = None
) -> list[dict[str, Any]]:
    """Train what is missing and return all outcomes.

    Args:
        path: the bench file.
        root: the project root: experiments/ goes there.
        jobs: runs side by side; default: the file's.
        only: rows to run (all when None).
    """
    bench = read_bench(path)
    runs = [run for run in plan_runs(bench, path, root) if not only or run.row in only]
    missing = [run for run in runs if outcome(run) is None]
    print(f"{bench['name']}: {len(runs)} runs, {len(runs) - len(missing)} of them done", flush=True)
    with concurrent.futures.ThreadPoolExecutor(jobs or bench["jobs"]) as pool:
        futures = {pool.submit(train_once, run, bench["threads"], root): run for run in missing}
        for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
            run, failure = futures[future], future.result()
            print(f"[{number}/{len(missing)}] {run.label}: {'FAILED' if failure else 'done'}", flush=True)
            if failure:
                print(failure, file=sys.stderr, flush=True)
    return [result for result in map(outcome, runs) if result is not None]
