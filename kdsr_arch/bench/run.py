"""Runs a bench: trains what is missing, side by side, and reads off what each run came to.

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
from typing import Any

from pydantic import BaseModel, ValidationError

from kdsr_arch.bench.plan import Plan, Run
from kdsr_arch.data.store.lmdb_store import RECIPE_FILE
from kdsr_arch.errors import OptionErrors, UserError, nearest
from kdsr_arch.io import read_json, write_bytes
from kdsr_arch.options import load_options, load_yaml
from kdsr_arch.parallel.subcommands import Subcommands
from kdsr_arch.plugins import RECORD
from kdsr_arch.records import machine_text
from kdsr_arch.train.history import logged_number, read_history
from kdsr_arch.train.resume import Change, differences

Scores = dict[str, dict[str, float | str]]
"""data set -> metric -> value; 'protocol' -> text."""

# Options that change no result of a test, and further ones that change none of a training.
_NO_RESULT = (
    r"name|needs|num_gpu|(imports|logger)(\..+)?|val\.(val_freq|save_img|pbar|suffix|score_teacher)"
    r"|datasets\..+\.(num_worker_per_gpu|prefetch_mode|num_prefetch_queue|verify|cache|cache_gb|resident)"
)
_NO_TRAINING = r"(val|datasets\.val\w*)(\..+)?|datasets\.train\.name|train\.(cuda_graph|ratio_freq)"


class Outcome(BaseModel):
    """What a run came to at its last iteration.

    Attributes:
        row, seed, budget, length, reference: see :class:`Run`.
        val: the validation.
        seconds: what it took.
        ratios: the mean ratio of each term's gradient to the pixel loss's.
        cost: parameters, multiply-adds and time of a frame, where a test measured them (val.speed_size).
        machine: what it was run on.
        source: the file name of the table that it was taken from, where it was not run here.
    """

    row: str = ""
    seed: int = 0
    budget: int = 0
    length: int = 0
    reference: bool = False
    val: Scores
    seconds: float
    ratios: dict[str, float]
    cost: dict[str, Any] | None = None
    machine: str = ""
    source: str = ""


def outcome(run: Run) -> Outcome | None:
    """Read what a run came to; None before it got there, and of a test whose options changed, which is repeated."""
    result = _read_marker(run.marker)
    if not run.length and changed_options(run):
        return None
    keys = ("row", "seed", "budget", "length", "reference")
    return result and result.model_copy(update={key: getattr(run, key) for key in keys})


def changed_options(run: Run) -> list[str]:
    """List the options that matter to the result, and the imported files, that changed since a run was begun.

    Empty for a run that was not begun.
    """
    kept, now = run.experiment / run.options.name, load_yaml(run.options)
    found = differences(load_yaml(kept), now) if kept.is_file() else []
    ignored = no_result(run)
    edited = _edited(run.experiment / RECORD, [Path(entry) for entry in now.get("imports") or ()])
    return [*(str(change) for change in found if not re.fullmatch(ignored, change.key)), *edited]


def no_result(run: Run) -> str:
    """Return a regular expression of the options, as dotted keys, that change no result of a run."""
    return f"{_NO_RESULT}|{_NO_TRAINING}" if run.length else _NO_RESULT


def _edited(record: Path, imports: Sequence[Path]) -> list[str]:
    """List the files whose content a training recorded, and which are others now where it imports them from."""
    kept = {file.relative_to(record): file.read_bytes() for file in sorted(record.rglob("*.py"))}
    folders = {file.parents[len(name.parts) - 1] for file in imports for name in kept if _ends_with(file, name)}
    files = {folder / name: content for folder in sorted(folders) for name, content in kept.items()}
    return [f"{file} was edited" for file, before in files.items() if file.is_file() and file.read_bytes() != before]


def _ends_with(file: Path, name: Path) -> bool:
    return file.parts[-len(name.parts) :] == name.parts


def outdated(runs: Iterable[Run]) -> list[str]:
    """Say which options changed since finished trainings were begun, a sentence for those with the same changes."""
    rows: dict[str, dict[str, None]] = {}
    for run in runs:
        if run.length and outcome(run) is not None and (changed := changed_options(run)):
            rows.setdefault(", ".join(changed), {})[run.row] = None
    return [f"changed after these rows were trained ({', '.join(names)}): {text}" for text, names in rows.items()]


def outcomes_of(runs: Iterable[Run]) -> list[Outcome]:
    """Read what the finished ones of ``runs`` came to."""
    return [result for result in map(outcome, runs) if result is not None]


def _read_marker(marker: Path) -> Outcome | None:
    """Read a marker; None without one, or with a damaged one: the run then looks unfinished, and is resumed."""
    try:
        return Outcome.model_validate_json(marker.read_bytes())
    except (OSError, ValidationError):
        return None


def note_outcome(run: Run, seconds: float) -> None:
    """Write down, from its history, what a run came to at its last iteration; nothing where it never got there.

    Args:
        run: a finished run.
        seconds: what it took.
    """
    cost = None
    if run.length:
        final, ratios = _trained(run)
    else:  # the means that `kdsr test` wrote
        report = read_json(run.experiment / "results.json", dict, "run the bench again")
        results, cost = report["results"], report.get("cost")
        write_bytes(run.experiment / run.options.name, run.options.read_bytes())  # as a training does at its start
        final, ratios = {each["dataset"]: {**each["mean"], "protocol": each["protocol"]} for each in results}, {}
    if final or run.reference:  # a teacher may have been trained without a validation set
        note(run, Outcome(val=final, seconds=seconds, ratios=ratios, cost=cost, machine=machine_text()))


def note(run: Run, result: Outcome) -> None:
    """Write down what a run came to: from here on it counts as done."""
    text = result.model_dump_json(include={"val", "seconds", "ratios", "cost", "machine", "source"})
    write_bytes(run.marker, text.encode())


def _trained(run: Run) -> tuple[Scores, dict[str, float]]:
    """Read (validations at the last iteration, mean ratios up to it) from a training's history."""
    final: Scores = {}
    ratios: dict[str, list[float]] = {}
    datasets = load_yaml(run.options).get("datasets")
    sections = datasets.items() if isinstance(datasets, dict) else ()
    names = {key: str(section.get("name", key)) for key, section in sections if isinstance(section, dict)}
    for record in read_history(run.experiment):
        if record.get("kind") == "val" and record["iter"] == run.length:
            key = str(record.get("dataset"))
            values = {k: v if k == "protocol" else logged_number(v) for k, v in record.items()}
            skipped = ("kind", "iter", "dataset")
            final[names.get(key, key)] = {k: v for k, v in values.items() if k not in skipped and v is not None}
        elif record.get("kind") != "val" and record["iter"] <= run.length:
            for key, value in record.items():
                if key.startswith("ratio/") and (ratio := logged_number(value)) is not None:
                    ratios.setdefault(key, []).append(ratio)
    return final, {key: sum(values) / len(values) for key, values in ratios.items()}


def carry_out(run: Run, work: Subcommands) -> str | None:
    """Test, or train to the end, resuming an interrupted training; return the tail of the output when that failed.

    A training whose options changed since it was interrupted is not resumed: its number would be of neither.
    """
    if run.length and (changed := changed_options(run)):
        return (
            f"error: {run.experiment}: begun with other options ({', '.join(changed)}): put them back, or "
            "remove the folder to train it anew"
        )
    earlier = [marker.seconds for file in run.experiment.glob("bench_*.json") if (marker := _read_marker(file))]
    began = time.perf_counter()
    if failure := work.run(run.command):
        return failure
    note_outcome(run, round(time.perf_counter() - began + max(earlier, default=0.0), 1))
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
