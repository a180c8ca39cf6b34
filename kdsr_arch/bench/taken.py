"""Finished runs that an earlier table tells of: of another machine, or of one that is gone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdsr_arch.bench.outcomes import Outcome, Taken, made_with, no_result, outcome
from kdsr_arch.bench.plan import Run
from kdsr_arch.bench.summary import seeds_of_rows
from kdsr_arch.errors import UserError
from kdsr_arch.io import read_json, write_bytes


def kept_options(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """List, for the table, what finished runs were made with: {row, budget, seeds, options, imports}.

    Options that change no result are left out, and so is the seed.
    """
    found: list[dict[str, Any]] = []
    for run in runs:
        options, imports = made_with(run) if outcome(run) is not None else (None, {})
        if options is None:
            continue
        pruned = _pruned({**options, "manual_seed": None}, no_result(run))
        same = {"row": run.row, "budget": run.budget, "options": pruned, "imports": imports}
        alike = next((each for each in found if {**same, "seeds": each["seeds"]} == each), None)
        if alike is None:
            found.append({**same, "seeds": [run.seed]})
        else:
            alike["seeds"].append(run.seed)
    return found


def _pruned(options: Mapping[str, Any], ignored: str, above: str = "") -> dict[str, Any]:
    """Leave out the dotted keys that a regular expression matches, and what is None."""
    kept = {name: value for name, value in options.items() if value is not None}
    kept = {name: value for name, value in kept.items() if not re.fullmatch(ignored, f"{above}{name}")}
    return {
        name: _pruned(value, ignored, f"{above}{name}.") if isinstance(value, Mapping) else value
        for name, value in kept.items()
    }


def take(table: Path, runs: Sequence[Run]) -> list[str]:
    """Count finished runs of an earlier table as done here: each gets its outcome, and no weights.

    What was begun here goes on here. Options that differ from the table's are told as for any finished run, see
    :func:`kdsr_arch.bench.outcomes.outdated`.

    Args:
        table: the JSON file that `kdsr bench` wrote beside its Markdown table.
        runs: the rows' runs of the bench, and its tests; trainings before the rows have weights that are needed.

    Returns:
        What to tell the user, a sentence each.

    Raises:
        UserError: no such table, or none of its runs is of this bench.
    """
    content = read_json(table, dict, "give the JSON file that kdsr bench wrote beside a table")
    try:
        told = {
            key: Taken(outcome=each, **_told_of(key, content.get("options", ())))
            for each in map(Outcome.model_validate, content["runs"])
            for key in [(each.row, each.seed, each.budget)]
        }
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{table}: no table of kdsr bench: its 'runs' or 'options' cannot be read") from None
    found = [(run, told[key]) for run in runs if (key := (run.row, run.seed, run.budget)) in told]
    found = [(run, each) for run, each in found if each.outcome.length == run.length]
    if not found:
        rows = ", ".join(dict.fromkeys(row for row, _, _ in told))
        raise UserError(f"{table}: holds no run of this bench; its rows are {rows}")
    taken = [(run, each) for run, each in found if not run.experiment.exists() and outcome(run) is None]
    for run, each in taken:
        result = each.outcome.model_copy(update={"source": each.outcome.source or table.name})
        seed = {"manual_seed": run.seed} if run.length else {}
        options = None if each.options is None else each.options | seed
        write_bytes(run.taken, Taken(outcome=result, options=options, imports=each.imports).model_dump_json().encode())
    said = [f"{table}: taken as done: {seeds_of_rows(each.outcome for _, each in taken) or 'nothing more'}"]
    unknown = dict.fromkeys(run.row for run, each in taken if each.options is None)
    return said + [f"{table}: does not tell the options of {'; '.join(unknown)}: they are not compared"] * bool(unknown)


def _told_of(key: tuple[str, int, int], entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Find what a table tells of one run beside its outcome."""
    row, seed, budget = key
    for each in entries:
        if (each["row"], each["budget"]) == (row, budget) and seed in each["seeds"]:
            return {"options": each["options"], "imports": each["imports"]}
    return {}
