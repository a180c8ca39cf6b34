"""What the runs of a bench came to, and whether what they were made with is still what the bench says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kdsr_arch.bench.plan import Run
from kdsr_arch.distill.teachers import digests, files_named
from kdsr_arch.errors import UserError
from kdsr_arch.io import file_digest, read_json, write_bytes
from kdsr_arch.options import load_yaml
from kdsr_arch.plugins import RECORD
from kdsr_arch.records import machine_text
from kdsr_arch.train.history import logged_number, read_history
from kdsr_arch.train.resume import HOW_LOADED, HOW_SHOWN, differences

Scores = dict[str, dict[str, float | str]]
"""data set -> metric -> value; 'protocol' -> text."""

# Options that change no result of a test; further ones that change none of a training, and no weights of it.
_LOADED = "|".join((*HOW_LOADED, "prefetch_mode", "num_prefetch_queue", "val_freq"))
_NO_RESULT = rf"name|needs|num_gpu|(imports|logger)(\..+)?|val\.({'|'.join(HOW_SHOWN)})|datasets\..+\.({_LOADED})"
_NO_TRAINING = r"datasets\.train\.name|train\.(cuda_graph|ratio_freq)"
_NO_WEIGHTS = r"(val|datasets\.val\w*)(\..+)?"


class Outcome(BaseModel):
    """What a run came to at its last iteration.

    Attributes:
        row, seed, budget, length, reference: see :class:`Run`.
        val: the validation.
        seconds: what it took.
        ratios: the mean ratio of each term's gradient to the pixel loss's.
        cost: parameters, multiply-adds and time of a frame, where a test measured them (val.speed_size).
        machine: what it was run on.
        weights: the SHA-256 of each teacher's file of weights.
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
    weights: dict[str, str] = {}
    source: str = ""


class Taken(BaseModel):
    """A finished run of an earlier table.

    Attributes:
        outcome: what it came to.
        options: those that matter to the result; None where the table does not tell them.
        imports: the SHA-256 of each imported file, by its name.
    """

    outcome: Outcome
    options: dict[str, Any] | None = None
    imports: dict[str, str] = {}


Written = TypeVar("Written", Outcome, Taken)


def outcome(run: Run) -> Outcome | None:
    """Read what a run came to; None before it got there, and of a test whose options changed, which is repeated."""
    result = _read(Outcome, run.marker)
    if result is None and (taken := _read(Taken, run.taken)) is not None:
        result = taken.outcome
    if not run.length and changed_options(run):
        return None
    keys = ("row", "seed", "budget", "length", "reference")
    return result and result.model_copy(update={key: getattr(run, key) for key in keys})


def outcomes_of(runs: Iterable[Run]) -> list[Outcome]:
    """Read what the finished ones of ``runs`` came to."""
    return [result for result in map(outcome, runs) if result is not None]


def _read(kind: type[Written], file: Path) -> Written | None:
    """Read what was written of a run; None without a file, or with a damaged one: the run then looks unfinished."""
    try:
        return kind.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


# ----------------------------------------------------------------------------------------------- what has changed since


def changed_options(run: Run, result: bool = True) -> list[str]:
    """List the options that matter, and the imported files, that changed since a run was begun.

    Empty for a run that was not begun.

    Args:
        run: the run.
        result: what matters to its numbers; else to its weights, and how these are validated does not.
    """
    now, (options, imports) = load_yaml(run.options), made_with(run)
    found = [] if options is None else differences(options, now)
    ignored = no_result(run) if result else f"{no_result(run)}|{_NO_WEIGHTS}"
    edited = _edited(imports, [Path(entry) for entry in now.get("imports") or ()])
    return [*(str(change) for change in found if not re.fullmatch(ignored, change.key)), *edited]


def no_result(run: Run) -> str:
    """Return a regular expression of the options, as dotted keys, that change no result of a run."""
    return f"{_NO_RESULT}|{_NO_TRAINING}" if run.length else _NO_RESULT


def made_with(run: Run) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Return the options that a run was begun with, and the SHA-256 of the files that it imported, by their names.

    As the run itself recorded them, or an earlier table; None and nothing where neither did.
    """
    kept, record = run.experiment / run.options.name, run.experiment / RECORD
    if not kept.is_file() and (taken := _read(Taken, run.taken)) is not None:
        return taken.options, taken.imports
    imports = {str(file.relative_to(record)): file_digest(file) for file in sorted(record.rglob("*.py"))}
    return load_yaml(kept) if kept.is_file() else None, imports


def _edited(kept: Mapping[str, str], imports: Sequence[Path]) -> list[str]:
    """List the imported files, kept by their digests, that are others now where they are imported from."""
    names = [Path(name) for name in kept]
    folders = {file.parents[len(name.parts) - 1] for file in imports for name in names if _ends_with(file, name)}
    files = {folder / name: digest for folder in sorted(folders) for name, digest in kept.items()}
    return [f"{file} was edited" for file, before in files.items() if file.is_file() and file_digest(file) != before]


def _ends_with(file: Path, name: Path) -> bool:
    return file.parts[-len(name.parts) :] == name.parts


def outdated(runs: Iterable[Run]) -> list[str]:
    """Say what changed since finished trainings were begun, a sentence for those with the same changes."""
    rows: dict[str, dict[str, None]] = {}
    known: dict[Path, str] = {}  # digests of the teachers' files, which rows share
    finished = [(run, result) for run in runs if run.length and (result := outcome(run)) is not None]
    for run, result in finished:
        if changed := [*changed_options(run), *_other_teachers(run, result, known)]:
            rows.setdefault(", ".join(changed), {})[run.row] = None
    return [f"changed after these rows were trained ({', '.join(names)}): {text}" for text, names in rows.items()]


def _other_teachers(run: Run, result: Outcome, known: dict[Path, str]) -> list[str]:
    """List the teachers whose weights are others than those that a run was taught by; a missing file tells nothing."""
    files = _teachers(run) if result.weights else {}
    known |= {file: file_digest(file) for file in files.values() if file not in known}
    return [
        f"the weights of {key}" for key, file in files.items() if result.weights.get(key, "") not in ("", known[file])
    ]


def _teachers(run: Run) -> dict[str, Path]:
    """Return the teachers' files of weights, without loading what the options import: rows may exclude each other."""
    options = load_yaml(run.options)
    networks = {key: spec for key, spec in options.items() if re.fullmatch(r"network_t\d*", key)}
    return files_named(options.get("path") or {}, networks)


# ------------------------------------------------------------------------------------------------------ what is written


def note_outcome(run: Run, seconds: float) -> None:
    """Write down, from its history, what a run came to at its last iteration; nothing where it never got there.

    Args:
        run: a finished run.
        seconds: what it took.
    """
    cost, weights = None, {}
    if run.length:
        final, ratios = _trained(run)
        weights = digests(_teachers(run))
    else:  # the means that `kdsr test` wrote
        report = read_json(run.experiment / "results.json", dict, "run the bench again")
        results, cost = report["results"], report.get("cost")
        write_bytes(run.experiment / run.options.name, run.options.read_bytes())  # as a training does at its start
        final, ratios = {each["dataset"]: {**each["mean"], "protocol": each["protocol"]} for each in results}, {}
    if final or run.reference:  # a teacher may have been trained without a validation set
        result = Outcome(val=final, seconds=seconds, ratios=ratios, cost=cost, machine=machine_text(), weights=weights)
        told = {"val", "seconds", "ratios", "cost", "machine", "weights"}
        write_bytes(run.marker, result.model_dump_json(include=told).encode())


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


def seconds_spent(run: Run) -> float:
    """Return what the stretches of a run took so far."""
    try:
        return float(read_json(run.seconds, dict, "")["seconds"])
    except (UserError, KeyError, TypeError, ValueError):  # of an earlier version, which noted finished runs alone
        done = [marker.seconds for file in run.experiment.glob("bench_*.json") if (marker := _read(Outcome, file))]
        return max(done, default=0.0)


def write_seconds(run: Run, seconds: float) -> None:
    """Note what the stretches of a training took so far; nothing where it never began."""
    if run.length and run.experiment.is_dir():
        write_bytes(run.seconds, f'{{"seconds": {seconds}}}'.encode())
