"""`kdsr bench FILE`: rows x seeds x budgets from one YAML file, trained alike, resumable, with mean and spread.

What the file holds is told in `bench_plan`. Every run is an ordinary `kdsr train` in a process of its own, with its own
option file, so that each can be repeated alone. A finished run is never repeated; an interrupted one resumes.
"""

from __future__ import annotations

import concurrent.futures
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from kdsr_arch.bench.plan import (
    Run,
    StoreRun,
    plan_before,
    plan_runs,
    plan_teacher_cache,
    plan_tested,
    read_bench,
)
from kdsr_arch.bench.subcommands import Subcommands
from kdsr_arch.errors import UserError
from kdsr_arch.io import read_json, write_whole


class _Outcome(BaseModel):
    """What `Run.marker` holds: {data set: {metric: value, 'protocol': text}}, seconds, mean gradient ratios."""

    val: dict[str, dict[str, float | str]]
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
    final, ratios = _trained(run) if run.length else (_tested(run), {})
    if final or run.reference:  # a teacher may have been trained without a validation set
        text = json.dumps({"val": final, "seconds": seconds, "ratios": ratios}).encode()
        write_whole(run.marker, lambda handle: handle.write(text))


def _trained(run: Run) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """(validations at the last iteration, mean ratios up to it) from a training's history."""
    from kdsr_arch.train.history import logged_number, read_history

    final: dict[str, dict[str, Any]] = {}
    ratios: dict[str, list[float]] = {}
    names = _dataset_names(run.options)
    for record in read_history(run.experiment):
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
    return final, {key: sum(values) / len(values) for key, values in ratios.items()}


def _tested(run: Run) -> dict[str, dict[str, Any]]:
    """The means of what `kdsr test` wrote."""
    report = read_json(run.experiment / "results.json", dict, "run the bench again")
    return {result["dataset"]: {**result["mean"], "protocol": result["protocol"]} for result in report["results"]}


def _dataset_names(options: Path) -> dict[str, str]:
    """{key of `datasets`: the set's name}."""
    from kdsr_arch.options import load_yaml

    found = load_yaml(options).get("datasets")
    datasets = found if isinstance(found, dict) else {}
    return {key: str(values.get("name", key)) for key, values in datasets.items() if isinstance(values, dict)}


def carry_out(run: Run, work: Subcommands) -> str | None:
    """Test, or train to its end (resuming what had begun); returns the tail of the output when that failed."""
    noted = [_read_outcome(file) for file in run.experiment.glob("bench_*.json")]
    earlier = max((found.seconds for found in noted if found is not None), default=0.0)
    began = time.perf_counter()
    if failure := work.run(run.command):
        return failure
    note_outcome(run, round(time.perf_counter() - began + earlier, 1))
    return None


def _before(first: list[Run], store: StoreRun | None, rows: bool, work: Subcommands) -> None:
    """What comes before the rows: trainings and tests that have no outcome yet, then the teacher's store.

    Args:
        rows: whether any row is still to be trained; trainings and the store are else left out.
    """
    for run in first:
        if (rows or not run.length) and outcome(run) is None and (failure := carry_out(run, work)):
            raise UserError(f"{run.options}: failed, before any row was trained:\n{failure}")
    if store and rows and not store.path.exists() and (failure := work.run(store.command)):
        raise UserError(f"{store.options}: failed, before any row was trained:\n{failure}")


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
        UserError: the bench file is unsound, or what `before` trains, `teacher_cache` stores or `tested` names failed.
    """
    bench = read_bench(path)
    first = [*plan_before(bench, path, root), *plan_tested(bench, path, root)]
    runs = [run for run in plan_runs(bench, path, root) if not only or run.row in only]
    missing = sorted((run for run in runs if outcome(run) is None), key=lambda run: run.length)
    print(f"{bench['name']}: {len(runs)} runs, {len(runs) - len(missing)} of them done", flush=True)
    work = Subcommands(root, bench["threads"])
    _before(first, plan_teacher_cache(bench, path, root), bool(missing), work)
    _train(missing, jobs or bench["jobs"], work, progress)
    return [result for result in map(outcome, [*first, *runs]) if result is not None]


def _train(missing: list[Run], jobs: int, work: Subcommands, progress: Callable[[], object]) -> None:
    """Train side by side; what breaks in stops the trainings under way, which save, and starts no others."""
    alone: dict[Path, threading.Lock] = {run.experiment: threading.Lock() for run in missing}

    def train(run: Run) -> str | None:
        with alone[run.experiment]:  # a further budget waits for the one that it prolongs
            return carry_out(run, work)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(train, run): run for run in missing}
        try:
            for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
                run, failure = futures[future], future.result()
                print(f"[{number}/{len(missing)}] {run.label}: {'FAILED' if failure else 'done'}", flush=True)
                if failure:
                    print(failure, file=sys.stderr, flush=True)
                progress()
        except BaseException:
            work.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            print("stopping: what is under way saves and leaves; the same command goes on", file=sys.stderr, flush=True)
            raise
