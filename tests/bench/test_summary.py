"""The tables of a bench, with their statistics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from scipy import stats

from kdsr_arch.bench.outcomes import Outcome, note_outcome, outcomes_of
from kdsr_arch.bench.plan import Plan, read_bench
from kdsr_arch.bench.summary import markdown, paired, spread, spread_text, summarize, write_tables
from tests.helpers.benches import finish
from tests.helpers.messages import refuses


def test_gains_over_a_further_row_have_a_column(bench: Path, tmp_path: Path):
    bench.write_text(bench.read_text() + "against: [with]\n")
    plan = Plan(bench, tmp_path)
    for run in plan.rows():
        finish(run, {"alone": 30.0 + run.seed * 0.2, "with": 30.5}[run.row])
    page = write_tables(
        outcomes_of(plan.runs()), tmp_path / "results" / "b", plan.bench, "kdsr bench b.yml"
    ).read_text()
    assert "| psnr over 'alone' | psnr over 'with' |" in page
    # -0.3 and -0.1: the deviation is 0.1414, Student's t with one degree of freedom 12.706, divided by the root of 2
    assert "| alone | 2 | 30.300 ± 0.141 | - | -0.200 ± 1.271 |" in page
    assert "| with | 2 | 30.500 ± 0.000 | +0.200 ± 1.271 | - |" in page
    assert "Each metric over 'with':\n\n| row | val psnr |\n|---|---|\n| alone | -0.200 ± 1.271 |\n\n" in page
    bench.write_text(bench.read_text().replace("against: [with]", "against: [wiht]"))
    with refuses("bench.yml", "against", "'wiht'", near="with"):
        read_bench(bench)


def test_the_table_says_whether_a_published_order_is_found(bench: Path, tmp_path: Path):
    given = yaml.safe_load(bench.read_text()) | {"published": {"order": ["alone", "with", "more"], "source": "Table 2"}}
    given["rows"]["more"] = {"train.total_iter": 100}
    bench.write_text(yaml.safe_dump(given))
    psnr = {
        ("alone", 50): (30.0, 30.0),
        ("with", 50): (30.5, 30.52),
        ("more", 50): (30.4, 30.9),
        ("alone", 100): (31.0, 31.0),
        ("with", 100): (30.5, 30.52),
    }  # 'more' has not come so far
    plan = Plan(bench, tmp_path)
    runs = [run for run in plan.rows() if (run.row, run.budget) in psnr]
    for run in runs:
        finish(run, psnr[run.row, run.budget][run.seed - 1])
    page = write_tables(outcomes_of(runs), tmp_path / "b", plan.bench, "c")
    assert page.read_text().rpartition("### The published order")[2].split("\n")[2:] == [
        "Table 2: alone < with < more. PSNR paired by seed, ± half of the 95 % t-interval:",
        "",
        "- 50 iterations, with over alone: +0.510 ± 0.127 dB, holds",
        "- 50 iterations, more over with: +0.140 ± 3.049 dB, undecided",
        "- 100 iterations, with over alone: -0.490 ± 0.127 dB, reversed",
        "",
    ]
    published = json.loads(page.with_suffix(".json").read_text())["published"]["found"]
    assert [record["verdict"] for record in published] == ["holds", "undecided", "reversed"]


def test_one_number_has_no_spread():
    assert spread([3.0]) == {"mean": 3.0, "std": 0.0, "values": [3.0]}
    assert paired([3.0])["half"] is None and spread_text(paired([3.0]), 2) == "3.00"


def test_the_interval_of_paired_differences_is_students():
    values = [0.1, 0.25, 0.18, 0.02, 0.3]
    interval = stats.ttest_rel(values, [0.0] * 5).confidence_interval(0.95)
    found = paired(values)
    assert (found["mean"] - found["half"], found["mean"] + found["half"]) == pytest.approx(tuple(interval))


def test_what_is_only_tested_stands_with_its_cost(bench: Path, tmp_path: Path):
    given = yaml.safe_load(bench.read_text())
    given = {"name": "b", "base": given["base"], "tested": {"tiny": {"network_g": {"type": "Bicubic", "scale": 4}}}}
    bench.write_text(yaml.safe_dump(given))
    (run,) = Plan(bench, tmp_path).runs()
    cost = {"parameters": 1234, "multiply_adds": 2.5e9, "milliseconds": 7.4, "width": 320, "height": 180}
    report = {"results": [{"dataset": "val", "protocol": "Y", "mean": {"psnr": 30.0}}]}
    report["cost"] = {**cost, "device": "cpu", "threads": 1}
    run.experiment.mkdir(parents=True)
    (run.experiment / "results.json").write_text(json.dumps(report))
    note_outcome(run, 1.0)
    page = write_tables(outcomes_of([run]), tmp_path / "b", read_bench(bench), "c").read_text()
    assert (
        "| network | val psnr | parameters | G multiply-adds (320x180) | ms per 320x180 frame (1 CPU thread) |" in page
    )
    assert "| tiny | 30.000 | 1,234 | 2.50 | 7 |" in page


def test_what_is_trained_before_the_rows_stands_in_every_table(bench: Path, tmp_path: Path):
    first = {"teacher": {"base": "base.yml", "iterations": 50, "change": {"train.distill_opt": None}}}  # as a budget
    bench.write_text(yaml.safe_dump(yaml.safe_load(bench.read_text()) | {"before": first}))
    (teacher,) = Plan(bench, tmp_path).before()
    options = yaml.safe_load(teacher.options.read_text())
    assert options["train"]["total_iter"] == 50 and options["val"] == {"val_freq": 10}
    assert options["name"] == "bench/b/teacher" and "distill_opt" not in options["train"]
    finish(teacher, 33.0)
    for run in Plan(bench, tmp_path).rows():
        finish(run, 30.0)
    text = markdown(summarize(outcomes_of(Plan(bench, tmp_path).runs()), "alone"), command="c", protocol="Y")
    assert text.count("| teacher (50 iterations) | 1 | 33.000 | - |") == 2


def test_scores_by_unlike_protocols_are_no_pair():
    made = {"seconds": 1.0, "ratios": {}, "seed": 1, "budget": 5}
    rows = [("alone", "Y", 40.0, 30.0), ("with", "RGB", 20.0, 30.5)]
    outcomes = [
        Outcome(row=row, val={"a": {"protocol": protocol, "psnr": a}, "b": {"protocol": "Y", "psnr": b}}, **made)
        for row, protocol, a, b in rows
    ]
    record = summarize(outcomes, "alone", ["alone"])[1]
    assert record["gain"]["values"] == [0.5] and set(record["differences"]["alone"]) == {"b psnr"}


def trained(row: str, *scores: float) -> list[Outcome]:
    made = {"row": row, "budget": 100, "seconds": 1.0, "ratios": {}}
    return [Outcome(**made, seed=seed, val={"s": {"psnr": score}}) for seed, score in enumerate(scores)]


def test_a_first_row_that_has_not_run_leaves_no_gains(bench: Path, tmp_path: Path):
    """They are not counted from another row instead: the table would change its meaning by what is done."""
    outcomes = [*trained("with", 31.0, 32.0)]
    (record,) = summarize(outcomes, "alone")
    assert record["over"] == "alone" and record["gain"] is None
    page = write_tables(outcomes, tmp_path / "b", read_bench(bench), "c").read_text()
    assert "psnr over 'alone'" in page and "| with | 2 | 31.500 ± 0.707 | - |" in page


def test_a_gain_tells_its_pairs_where_they_are_fewer_than_the_seeds():
    outcomes = [*trained("alone", 30.0, 30.5), *trained("with", 30.5, 31.0, 33.0), *trained("third", 30.5)]
    text = markdown(summarize(outcomes, "alone"), command="c", protocol="Y")
    assert "| with | 3 | 31.500 ± 1.323 | +0.500 ± 0.000 (2 pairs) |" in text
    assert "| third | 1 | 30.500 | +0.500 |" in text


def test_a_dot_in_the_name_is_no_suffix(bench: Path, tmp_path: Path):
    results = [Outcome(row="alone", val={}, seconds=1.0, ratios={})]
    pages = [write_tables(results, tmp_path / name, read_bench(bench), "c") for name in ("lr0.1", "lr0.2")]
    assert sorted(file.name for file in tmp_path.glob("lr*")) == ["lr0.1.json", "lr0.1.md", "lr0.2.json", "lr0.2.md"]
    assert [page.name for page in pages] == ["lr0.1.md", "lr0.2.md"]
