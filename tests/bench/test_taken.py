"""Finished runs of an earlier table."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from kdsr_arch.bench.plan import Plan, Run, read_bench
from kdsr_arch.bench.run import Outcome, note, outcome, outcomes_of, outdated
from kdsr_arch.bench.summary import write_tables
from kdsr_arch.bench.taken import kept_options, take
from kdsr_arch.io import write_bytes
from tests.helpers.benches import finish, with_row
from tests.helpers.messages import refuses


def test_finished_runs_of_an_earlier_table_count_as_done_on_another_machine(bench: Path, tmp_path: Path):
    given = yaml.safe_load(bench.read_text()) | {"budgets": [50], "tested": {"bicubic": {}}}
    bench.write_text(yaml.safe_dump(given))
    there = Plan(bench, tmp_path / "there")
    (test,) = there.tested()
    test.experiment.mkdir(parents=True)
    write_bytes(test.experiment / test.options.name, test.options.read_bytes())
    note(test, Outcome(val={"val": {"psnr": 28.0}}, seconds=1.0, ratios={}))
    for run in there.rows():
        if (run.row, run.seed) != ("with", 2):
            finish(run, 30.0 + run.seed)
            write_bytes(run.experiment / run.options.name, run.options.read_bytes())  # as a training does
    page = write_tables(
        outcomes_of(there.runs()), tmp_path / "b", there.bench, "c", options=kept_options(there.runs())
    ).with_suffix(".json")
    kept = json.loads(page.read_text())["options"]
    assert [(each["row"], each["budget"]) for each in kept] == [("bicubic", 0), ("alone", 50), ("with", 50)]
    assert kept[1]["options"]["train"]["stages"] == [{"iters": 30}, {"iters": 20}]
    assert not {"name", "val", "manual_seed"} & set(kept[1]["options"])  # no part of the result; and each seed's own

    here = Plan(bench, tmp_path / "here")
    begun = next(run for run in here.rows() if (run.row, run.seed) == ("alone", 2))
    begun.experiment.mkdir(parents=True)
    taken = f"{page}: taken as done: bicubic; alone (seeds 1); with (seeds 1)"
    assert take(page, [*here.tested(), *here.rows()]) == [taken]
    assert [(each.row, each.seed, each.val["val"]["psnr"]) for each in outcomes_of(here.rows())] == [
        ("alone", 1, 31.0), ("with", 1, 31.0)
    ]  # fmt: skip
    missing = [run.label for run in here.runs() if outcome(run) is None]
    assert missing == ["alone, seed 2, 50 iterations", "with, seed 2, 50 iterations"]
    assert outdated(here.rows()) == []  # although the table names none of what changes no result
    finished = [result.model_copy(update={"machine": f"machine {result.seed}"}) for result in outcomes_of(here.rows())]
    again = write_tables(
        [*finished, finished[0].model_copy(update={"machine": "", "seed": 5})], tmp_path / "c", here.bench, "c"
    )
    assert "- run on machine 1: alone (seeds 1); with (seeds 1)\n" in again.read_text()
    assert "- of an earlier table (b.json): alone (seeds 1, 5); with (seeds 1)" in again.read_text()

    with_row(bench, {"train.optim_g.lr": 0.01})
    (sentence,) = outdated(Plan(bench, tmp_path / "here").rows())
    assert sentence == "changed after these rows were trained (with): train.optim_g.lr: absent -> 0.01"


def test_a_table_that_is_of_no_use_as_an_earlier_one_is_refused(bench: Path, tmp_path: Path):
    runs, table = Plan(bench, tmp_path).rows(), tmp_path / "t.json"
    table.write_text('{"runs": [{"row": 1}]}')
    with refuses("t.json", "no table of kdsr bench"):
        take(table, runs)
    other = Outcome(row="other", val={}, seconds=1.0, ratios={})
    write_tables([other], table, read_bench(bench), "c")
    with refuses("t.json", "no run of this bench", "other"):
        take(table, runs)
    with refuses("nowhere.json", "kdsr bench"):
        take(tmp_path / "nowhere.json", runs)
    # a table of an earlier version tells no options
    table.write_text(json.dumps({"runs": [other.model_copy(update=_place(runs[0])).model_dump()]}))
    assert take(table, runs) == [
        f"{table}: taken as done: alone (seeds 1)",
        f"{table}: does not tell the options of alone: they are not compared",
    ]


def _place(run: Run) -> dict:
    return {key: getattr(run, key) for key in ("row", "seed", "budget", "length")}
