"""Runs a bench: trains what is missing, side by side.

Every run is an ordinary `kdsr train` in a process of its own, with its own option file, so that each can be repeated
alone. A finished run is never repeated; an interrupted one resumes.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from kdsr_arch.bench.outcomes import changed_options, note_outcome, outcome, outdated, seconds_spent, write_seconds
from kdsr_arch.bench.plan import Plan, Run
from kdsr_arch.data.store.lmdb_store import RECIPE_FILE
from kdsr_arch.errors import OptionErrors, UserError, nearest
from kdsr_arch.io import read_json
from kdsr_arch.options import load_options, load_yaml
from kdsr_arch.parallel.subcommands import Subcommands
from kdsr_arch.train.resume import Change


def carry_out(run: Run, work: Subcommands) -> str | None:
    """Test, or train to the end, resuming an interrupted training; return the tail of the output when that failed.

    A training whose options changed since it was interrupted is not resumed: its number would be of neither.
    """
    if run.length and (changed := changed_options(run, result=False)):
        return (
            f"error: {run.experiment}: begun with other options ({', '.join(changed)}): put them back, or "
            "remove the folder to train it anew"
        )
    began, before = time.perf_counter(), seconds_spent(run)
    try:
        failure = work.run(run.command)
    finally:  # an interrupted run goes on later
        seconds = round(time.perf_counter() - began + before, 1)
        write_seconds(run, seconds)
    if failure:
        return failure
    note_outcome(run, seconds)
    if outcome(run) is None:
        return f"error: {run.experiment}: ended without a validation that gave numbers at iteration {run.length:,}"
    return None


def check_options(file: Path, runs: Iterable[Run]) -> None:
    """Check an option file of every row, as each run would at its start, hours later.

    Rows that import something else than the first one are left to their start: classes of one name exclude each other.

    Raises:
        OptionErrors: all faults, each with its rows.
    """
    faults: dict[str, list[str]] = {}
    rows = {run.row: run for run in reversed([*runs])}
    imports = [load_yaml(run.options).get("imports") for run in rows.values()]
    for (row, run), imported in zip(rows.items(), imports, strict=True):
        try:
            if imported == imports[0]:
                load_options(run.options, is_train=run.length > 0)
        except OptionErrors as error:
            for fault in error.faults:
                faults.setdefault(re.sub(r" \(lines? [^()]*\)$", "", fault), []).insert(0, row)
        except UserError as error:
            faults.setdefault(str(error), []).insert(0, row)
    if faults:
        raise OptionErrors([f"{', '.join(rows)}: {fault}" for fault, rows in faults.items()], str(file))


def _run_before(plan: Plan, work: Subcommands, missing: Sequence[Run]) -> None:
    """Run what comes before the rows: trainings and tests without an outcome, then the filling of the teacher's store.

    Args:
        missing: the rows' runs that are still to be trained; without any, trainings are left out, and the store is made
            for those alone that read it.
    """
    failed = "failed, before any row was trained"
    for run in [*plan.before(), *plan.tested()]:
        if (missing or not run.length) and outcome(run) is None and (failure := carry_out(run, work)):
            raise UserError(f"{run.options}: {failed}:\n{failure}")
    store = plan.store_command()
    if store and any(_teacher_cache(run) == str(plan.store) for run in missing):
        _check_store(plan)
        if not (plan.root / plan.store).exists() and (failure := work.run(store)):
            raise UserError(f"kdsr {' '.join(store)}: {failed}:\n{failure}")


def _teacher_cache(run: Run) -> str | None:
    """Return the store of a teacher's outputs that a training reads."""
    train = load_yaml(run.options)["datasets"].get("train")
    return train.get("teacher_cache") if isinstance(train, dict) else None


def _check_store(plan: Plan) -> None:
    """Compare what a finished store was made with; the trainings compare what they know of it, the teacher say."""
    file, spec = plan.root / plan.store / RECIPE_FILE, plan.bench.teacher_cache
    if spec is None or not file.parent.exists():
        return
    made = read_json(file, dict, "remove the store, which the bench makes anew")
    changed = [Change(key, made.get(key), value) for key, value in spec if (made.get(key) or None) != (value or None)]
    if changed:
        raise UserError(
            f"{file.parent}: made with another teacher_cache ({', '.join(map(str, changed))}): put it back in "
            f"{plan.file}, or remove the store and the runs that read it"
        )


def run_bench(
    plan: Plan,
    *,
    jobs: int | None = None,
    only: Sequence[str] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Run what is missing.

    Args:
        plan: the bench.
        jobs: runs side by side; default: the file's.
        only: rows to run (all when None).
        progress: called after each run.

    Raises:
        UserError: `only` names no row, `jobs` is below 1, a run of `before`, `teacher_cache` or `tested` failed,
            or the store is of another `teacher_cache`.
        OptionErrors: options are at fault; nothing was run.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: must be 1 or more")
    for row in only or ():
        if row not in plan.bench.rows:
            raise UserError(f"--only names no row '{row}'{nearest(row, plan.bench.rows)}")
    runs, others = [run for run in plan.rows() if not only or run.row in only], [*plan.before(), *plan.tested()]
    missing = sorted((run for run in runs if outcome(run) is None), key=lambda run: run.length)
    print(f"{plan.bench.name}: {len(runs)} runs, {len(runs) - len(missing)} of them done", flush=True)
    for sentence in outdated([*plan.before(), *runs]):
        print(f"warning: {sentence}", file=sys.stderr, flush=True)
    check_options(plan.file, [run for run in [*others, *missing] if outcome(run) is None])
    work = Subcommands(plan.root, plan.bench.threads)
    _run_before(plan, work, missing)
    _train(missing, jobs or plan.bench.jobs, work, progress)


def _train(missing: Sequence[Run], jobs: int, work: Subcommands, progress: Callable[[], object]) -> None:
    """Train side by side; an exception stops the trainings under way, which save, and starts no others."""
    alone = {run.experiment: threading.Lock() for run in missing}

    def train(run: Run) -> str | None:
        with alone[run.experiment]:  # a further budget waits for the one that it prolongs
            return carry_out(run, work)

    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(train, run): run for run in missing}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                run, failure = futures[future], future.result()
                print(f"[{number}/{len(missing)}] {run.label}: {'FAILED' if failure else 'done'}", flush=True)
                if failure:
                    print(failure, file=sys.stderr, flush=True)
                progress()
        except BaseException:
            work.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            print("stopping: the trainings save and leave; the same command resumes them", file=sys.stderr, flush=True)
            raise
