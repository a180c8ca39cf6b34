"""Finished runs that an earlier table tells of: of another machine, or of one that is gone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kdsr_arch.bench.plan import Run
from kdsr_arch.bench.run import Outcome, no_result, note, outcome
from kdsr_arch.bench.summary import seeds_of_rows
from kdsr_arch.errors import UserError
from kdsr_arch.io import read_json, write_bytes
from kdsr_arch.options import load_yaml


def kept_options(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """List, for the table, {row, budget, options} of finished runs: what matters to the result, without the seed."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for run in runs:
        file = run.experiment / run.options.name
        if (run.row, run.budget) not in found and outcome(run) is not None and file.is_file():
            options = _pruned({**load_yaml(file), "manual_seed": None}, no_result(run))
            found[run.row, run.budget] = {"row": run.row, "budget": run.budget, "options": options}
    return [*found.values()]


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
    :func:`kdsr_arch.bench.run.outdated`.

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
        outcomes = [Outcome.model_validate(entry) for entry in content["runs"]]
        options = {(each["row"], each["budget"]): dict(each["options"]) for each in content.get("options", ())}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{table}: no table of kdsr bench: its 'runs' or 'options' cannot be read") from None
    told = {(each.row, each.seed, each.budget, each.length): each for each in outcomes}
    found = [(run, told[key]) for run in runs if (key := (run.row, run.seed, run.budget, run.length)) in told]
    if not found:
        raise UserError(
            f"{table}: holds no run of this bench; its rows are {', '.join({e.row: None for e in outcomes})}"
        )
    taken = [(run, each) for run, each in found if not run.experiment.exists()]
    for run, each in taken:
        if (kept := options.get((run.row, run.budget))) is not None:
            text = yaml.safe_dump({**kept, "manual_seed": run.seed} if run.length else kept)
            write_bytes(run.experiment / run.options.name, text.encode())
        note(run, each.model_copy(update={"source": each.source or table.name}))
    said = [f"{table}: taken as done: {seeds_of_rows(each for _, each in taken) or 'nothing more'}"]
    unknown = dict.fromkeys(run.row for run, _ in taken if (run.row, run.budget) not in options)
    return said + [f"{table}: does not tell the options of {'; '.join(unknown)}: they are not compared"] * bool(unknown)
