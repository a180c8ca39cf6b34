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

A teacher that the rows need is trained first, once, by `before`; `common` holds for it as well::

    before:
      teacher: {base: ../train_srkd_teacher.yml, iterations: 12000, change: {train.amp: bf16}}

Its weights are experiments/bench/NAME/teacher/models/net_g_latest.pth. With `continued: true` each row and seed is one
run, whose validations are read off at every budget and which a further budget prolongs: the learning rate must then be
constant, else the shorter budgets would be judged in mid-schedule. A row's `extra_iter` gives it that many iterations
more than the budget: the control with as much computing as a method that trains a teacher of its own.

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
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from kdsr_arch.engine.options.faults import schema_faults
from kdsr_arch.engine.options.types import Count, PlainName, Positive, Section
from kdsr_arch.engine.options.yaml_reader import describe
from kdsr_arch.errors import OptionErrors, UserError
from kdsr_arch.files import write_whole


class _Before(Section):
    """What is trained once before the rows."""

    base: str
    iterations: Positive
    change: dict[str, Any] | None = None
    seed: Count = 0


class BenchOptions(Section):
    """The keys of a bench file; the module's text says what they mean."""

    name: PlainName
    base: str
    before: dict[PlainName, _Before] | None = None
    seeds: list[Count] = Field(default=[0], min_length=1)
    budgets: list[Positive] = Field(min_length=1)
    continued: bool = False
    jobs: Positive = 1
    threads: Positive = 1
    common: dict[str, Any] | None = None
    rows: dict[PlainName, dict[str, Any] | None] = Field(min_length=1)
    note: str = ""


@dataclass(frozen=True)
class Run:
    """One training of the bench, or the stretch of one up to a budget.

    Attributes:
        budget: what the table calls it; `length` are the iterations that it trains.
        reference: trained before the rows; it stands beside them at every budget.
    """

    row: str
    seed: int
    budget: int
    length: int
    options: Path
    experiment: Path
    reference: bool = False

    @property
    def label(self) -> str:
        return f"{self.row}, seed {self.seed}, {self.length} iterations"

    @property
    def marker(self) -> Path:
        """What the run came to, written once it is there: a run that goes on rewrites its history."""
        return self.experiment / f"bench_{self.length}.json"

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
    if faults := schema_faults(BenchOptions, bench):
        raise OptionErrors([f"{key}: {sentence}" for key, sentence in faults], str(path))
    whole = BenchOptions.model_validate(bench).model_dump()
    named = {key: whole[key] or {} for key in ("common", "before")}
    return {**whole, **named, "budgets": sorted(whole["budgets"])}


def override(options: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
    """A copy of ``options`` with dotted keys replaced; a value of None removes the key."""
    result = copy.deepcopy(options)
    for dotted, value in (changes or {}).items():
        *parents, last = dotted.split(".")
        node = result
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"the override '{dotted}': '{part}' is not a mapping, so nothing below it can be set")
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


def plan_before(bench: dict[str, Any], path: Path, root: Path) -> list[Run]:
    """Write the option files of what is trained first and list these runs, in the order of the file."""
    runs = []
    for name, spec in bench["before"].items():
        changes = {**bench["common"], **(spec.get("change") or {})}
        runs.append(_plan(bench, _base(spec, path), changes, root, row=name, seed=int(spec.get("seed", 0)),
                          budget=spec["iterations"], length=spec["iterations"], label=name, reference=True))
    return runs


def plan_runs(bench: dict[str, Any], path: Path, root: Path) -> list[Run]:
    """Write one option file per (row, seed, budget) under experiments/bench/NAME/options and list the runs.

    Raises:
        UserError: `continued` with a learning rate that is not constant.
    """
    base, runs = _base(bench, path), []
    for budget in bench["budgets"]:
        for seed in bench["seeds"]:
            for row, given in bench["rows"].items():
                changes = {**bench["common"], **(given or {})}
                length = budget + _extra(changes, f"bench {bench['name']}, {row}")
                label = f"{row}_s{seed}" if bench["continued"] else f"{row}_s{seed}_{budget}"
                runs.append(_plan(bench, base, changes, root, row=row, seed=seed, budget=budget, length=length,
                                  label=label))
                if bench["continued"] and override(base, changes)["train"].get("scheduler"):
                    raise UserError(f"{path}: continued: true needs a constant learning rate; add "
                                    "`train.scheduler: null` to common")
    return runs


def _extra(changes: dict[str, Any], where: str) -> int:
    """Takes `extra_iter` out of a row."""
    extra = changes.pop("extra_iter", 0)
    if not isinstance(extra, int) or isinstance(extra, bool) or extra < 0:
        raise UserError(f"{where}: extra_iter must be a whole number of iterations, not {describe(extra)}")
    return extra


def _base(spec: dict[str, Any], path: Path) -> dict[str, Any]:
    from kdsr_arch.engine.options import load_yaml

    return load_yaml((path.parent / spec["base"]).resolve())


def _plan(bench: dict[str, Any], base: dict[str, Any], changes: dict[str, Any], root: Path, *, row: str, seed: int,
          budget: int, length: int, label: str, reference: bool = False) -> Run:
    safe = re.sub(r"[^\w.-]+", "_", label)
    name = f"bench/{bench['name']}/{safe}"
    try:
        options = override(base, changes)
        set_budget(options, length)
    except UserError as error:
        raise UserError(f"bench {bench['name']}, {row}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"bench {bench['name']}, {row}: its options have no sound train section ({error!r})") from None
    options["name"], options["manual_seed"] = name, seed
    folder = root / "experiments" / "bench" / bench["name"] / "options"
    file = folder / (f"{safe}_{length}.yml" if bench["continued"] and not reference else f"{safe}.yml")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error})") from None
    return Run(row, seed, budget, length, file, root / "experiments" / name, reference)


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a history.jsonl, whole lines only: a run that was killed may have left half a line."""
    if not path.exists():
        return
    from kdsr_arch.engine.logging import whole_record

    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    yield from (record for line in lines if (record := whole_record(line)) is not None)


class _Outcome(BaseModel):
    """What `Run.marker` holds: {data set: {metric: value, 'protocol': text}}, seconds, mean gradient ratios."""

    val: dict[str, dict[str, float | str]] = Field(min_length=1)
    seconds: float
    ratios: dict[str, float]


def outcome(run: Run) -> dict[str, Any] | None:
    """The validation of a run at its last iteration, its mean term ratios and its seconds; None before it got there."""
    found = _read_outcome(run.marker)
    own = {"row": run.row, "seed": run.seed, "budget": run.budget, "length": run.length, "reference": run.reference}
    return None if found is None else {**own, **found.model_dump()}


def _read_outcome(marker: Path) -> _Outcome | None:
    """None where there is none, or a damaged one: the run then looks unfinished, and is gone on with."""
    try:
        return _Outcome.model_validate_json(marker.read_bytes())
    except (OSError, ValidationError):
        return None


def note_outcome(run: Run, seconds: float) -> None:
    """Write down, from its history, what a run came to at its last iteration; nothing where it never got there.

    Args:
        run: a finished run.
        seconds: what it took.
    """
    from kdsr_arch.engine.logging import logged_number

    final: dict[str, dict[str, Any]] = {}
    ratios: dict[str, list[float]] = {}
    names = _dataset_names(run.options)
    for record in read_log(run.log):
        if record.get("kind") == "val":
            if record["iter"] == run.length:
                key = str(record.get("dataset"))
                numbers = {k: v if k == "protocol" else logged_number(v) for k, v in record.items()}
                skipped = ("kind", "iter", "dataset")
                final[names.get(key, key)] = {k: v for k, v in numbers.items() if k not in skipped and v is not None}
        elif record["iter"] <= run.length:
            for key, value in record.items():
                if key.startswith("ratio/") and (ratio := logged_number(value)) is not None:
                    ratios.setdefault(key, []).append(ratio)
    if final:
        means = {key: sum(values) / len(values) for key, values in ratios.items()}
        text = json.dumps({"val": final, "seconds": seconds, "ratios": means}).encode()
        write_whole(run.marker, lambda handle: handle.write(text))


def _dataset_names(options: Path) -> dict[str, str]:
    """{key of `datasets`: the set's name}."""
    from kdsr_arch.engine.options import load_yaml

    found = load_yaml(options).get("datasets")
    datasets = found if isinstance(found, dict) else {}
    return {key: str(values.get("name", key)) for key, values in datasets.items() if isinstance(values, dict)}


def train_once(run: Run, threads: int, root: Path) -> str | None:
    """Train one run to its end (resuming it when it had begun); returns the tail of its output when it failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "kdsr_arch.cli", "train", "-opt", str(run.options), "--auto_resume"]
    noted = [_read_outcome(file) for file in run.experiment.glob("bench_*.json")]
    earlier = max((found.seconds for found in noted if found is not None), default=0.0)
    began = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return (done.stdout + done.stderr)[-2000:]
    note_outcome(run, round(time.perf_counter() - began + earlier, 1))
    return None


def run_bench(
    path: Path,
    *,
    root: Path,
    jobs: int | None = None,
    only: list[str] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Train what is missing and return all outcomes.

    Args:
        path: the bench file.
        root: the project root: experiments/ goes there.
        jobs: runs side by side; default: the file's.
        only: rows to run (all when None).
        progress: called after each run.

    Raises:
        UserError: the bench file is unsound, or what `before` trains failed.
    """
    bench = read_bench(path)
    first = plan_before(bench, path, root)
    runs = [run for run in plan_runs(bench, path, root) if not only or run.row in only]
    missing = [run for run in runs if outcome(run) is None]
    print(f"{bench['name']}: {len(runs)} runs, {len(runs) - len(missing)} of them done", flush=True)
    for run in first if missing else ():
        if outcome(run) is None and (failure := train_once(run, bench["threads"], root)):
            raise UserError(f"{run.options}: the training before the rows failed:\n{failure}")
    alone: dict[Path, threading.Lock] = {run.experiment: threading.Lock() for run in missing}

    def train(run: Run) -> str | None:
        with alone[run.experiment]:  # a further budget waits for the one that it prolongs
            return train_once(run, bench["threads"], root)

    with concurrent.futures.ThreadPoolExecutor(jobs or bench["jobs"]) as pool:
        futures = {pool.submit(train, run): run for run in missing}
        for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
            run, failure = futures[future], future.result()
            print(f"[{number}/{len(missing)}] {run.label}: {'FAILED' if failure else 'done'}", flush=True)
            if failure:
                print(failure, file=sys.stderr, flush=True)
            progress()
    return [result for result in map(outcome, [*first, *runs]) if result is not None]
