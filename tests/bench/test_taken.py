"""Finished runs of an earlier table."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from kdsr_arch.bench.outcomes import Outcome, note_outcome, outcome, outcomes_of, outdated
from kdsr_arch.bench.plan import Plan, Run, read_bench
from kdsr_arch.bench.summary import write_tables
from kdsr_arch.bench.taken import kept_options, take
from kdsr_arch.io import write_bytes
from tests.helpers.benches import as_continued, finish, with_row
from tests.helpers.messages import refuses
from tests.helpers.plugins import write_files


def test_finished_runs_of_an_earlier_table_count_as_done_on_another_machine(bench: Path, tmp_path: Path):
    given = yaml.safe_load(bench.read_text()) | {"budgets": [50], "tested": {"bicubic": {}}}
    bench.write_text(yaml.safe_dump(given))
    there = Plan(bench, tmp_path / "there")
    (test,) = there.tested()
    test.experiment.mkdir(parents=True)
    write_bytes(test.experiment / test.options.name, test.options.read_bytes())
    write_bytes(test.marker, Outcome(val={"val": {"psnr": 28.0}}, seconds=1.0, ratios={}).model_dump_json().encode())
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
    assert not {"name", "manual_seed"} & set(kept[1]["options"])  # no part of the result; and each seed's own
    assert kept[1]["options"]["val"] == {}
    assert [each["seeds"] for each in kept] == [[0], [1, 2], [1]]

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
    write_tables([other], table.with_suffix(""), read_bench(bench), "c")
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


def _table(bench: Path, root: Path) -> Path:
    """What a machine writes that has trained each row."""
    plan = Plan(bench, root)
    for run in plan.rows():
        if not run.experiment.exists():
            finish(run, 30.0)
        write_bytes(run.experiment / run.options.name, run.options.read_bytes())
        note_outcome(run, 1.0)
    file = write_tables(outcomes_of(plan.runs()), root / "b", plan.bench, "c", options=kept_options(plan.runs()))
    return file.with_suffix(".json")


def test_a_continued_run_keeps_what_was_taken_at_a_smaller_budget(bench: Path, tmp_path: Path):
    """The training up to the larger budget has a folder of its own, and begins anew."""
    as_continued(bench, budgets=[50], common={"train.scheduler": None})
    table = _table(bench, tmp_path / "there")
    as_continued(bench, budgets=[50, 100])
    here = Plan(bench, tmp_path / "here")
    take(table, here.rows())
    assert not any(run.experiment.exists() for run in here.rows())
    finish(here.rows()[-1], 31.0)  # of 100 iterations
    done = {(each.row, each.seed, each.budget): each.seconds for each in outcomes_of(here.rows())}
    assert done == {(row, seed, 50): 1.0 for row in ("alone", "with") for seed in (1, 2)} | {("with", 2, 100): 12.5}


def test_each_seeds_options_and_the_imported_files_of_a_table_are_compared(bench: Path, tmp_path: Path):
    write_files(bench.parent, {"own.py": "A = 1"})
    given = yaml.safe_load(bench.read_text()) | {"budgets": [50]}
    bench.write_text(yaml.safe_dump(given | {"common": {"imports": ["./own.py"]}}))
    there = Plan(bench, tmp_path / "there")
    for run in there.rows():
        finish(run, 30.0)
        write_files(run.experiment / "imports", {"own.py": "A = 1"})
    _table(bench, tmp_path / "there")
    odd = next(run for run in there.rows() if (run.row, run.seed) == ("with", 2))
    write_bytes(odd.experiment / odd.options.name, odd.options.read_bytes().replace(b"Adam", b"SGD"))
    options = kept_options(there.rows())
    assert [(each["row"], each["seeds"]) for each in options] == [("alone", [1, 2]), ("with", [1]), ("with", [2])]
    table = write_tables(outcomes_of(there.rows()), tmp_path / "b", there.bench, "c", options=options)

    here = Plan(bench, tmp_path / "here")
    take(table.with_suffix(".json"), here.rows())
    changed = 'changed after these rows were trained (with): train.optim_g.type: "SGD" -> "Adam"'
    assert outdated(here.rows()) == [changed]
    assert kept_options(here.rows()) == options  # which the next machine is told
    write_files(bench.parent, {"own.py": "A = 2"})
    assert all("own.py was edited" in sentence for sentence in outdated(here.rows()))
