"""What a bench file stands for: rows, seeds and budgets, each with an option file of its own."""

from __future__ import annotations

from pathlib import Path

import yaml

from kdsr_arch.bench.plan import Plan, override, read_bench, set_budget
from tests.helpers.benches import BASE, as_continued, with_row
from tests.helpers.messages import refuses
from tests.helpers.plugins import ARCH, write_files


def test_override_replaces_adds_and_removes_without_touching_the_original():
    changed = override(BASE, {"network_t": None, "train.distill_opt.a.loss_weight": 2.0, "val.val_freq": 5})
    assert "network_t" not in changed and "network_t" in BASE
    assert changed["train"]["distill_opt"]["a"] == {"type": "L1Loss", "loss_weight": 2.0}
    assert changed["val"] == {"val_freq": 5}


def test_a_budget_stretches_the_schedule_and_the_stages():
    options = override(BASE, {})
    set_budget(options, 50)
    assert options["train"]["scheduler"]["milestones"] == [20, 40]
    assert [stage["iters"] for stage in options["train"]["stages"]] == [30, 20]


def test_every_row_seed_and_budget_is_a_run_with_its_own_option_file(bench: Path, tmp_path: Path):
    runs = Plan(bench, tmp_path).rows()
    assert {(r.row, r.seed, r.budget) for r in runs} == {
        (row, seed, budget) for row in ("alone", "with") for seed in (1, 2) for budget in (50, 100)
    }
    options = yaml.safe_load(next(r for r in runs if r.row == "alone" and r.seed == 2).options.read_text())
    assert options["manual_seed"] == 2 and "network_t" not in options and "distill_opt" not in options["train"]
    assert options["val"] == {"val_freq": 10}


def test_a_run_imports_what_its_base_brings_in_and_what_its_row_names(bench: Path, tmp_path: Path):
    """By whole paths: its option file lies elsewhere. Nothing is imported here."""
    other = write_files(tmp_path / "other", {"archs/own_arch.py": ARCH, "edge.py": "1 / 0"})
    (other / "base.yml").write_text(yaml.safe_dump({**BASE, "imports": "./edge.py"}))
    write_files(bench.parent, {"more.py": "1 / 0"})
    given = yaml.safe_load(bench.read_text()) | {"base": str(other / "base.yml")}
    given["rows"]["with"] = {"imports": ["./more.py", "installed.module"]}
    bench.write_text(yaml.safe_dump(given))
    imports = {run.row: yaml.safe_load(run.options.read_text())["imports"] for run in Plan(bench, tmp_path).rows()}
    of_base = [str(other / "edge.py"), str(other / "archs" / "own_arch.py")]
    assert imports["alone"] == of_base
    assert imports["with"] == [*of_base, str(bench.parent / "more.py"), "installed.module"]


def test_a_published_order_of_rows_that_are_not_there_is_refused(bench: Path):
    bench.write_text(bench.read_text() + "published: {order: [alone, wiht], source: x}\n")
    with refuses("bench.yml", "published.order", "'wiht'", near="with"):
        read_bench(bench)


def test_a_misspelt_key_is_refused_with_the_nearest(bench: Path):
    bench.write_text(bench.read_text().replace("budgets", "budgetts"))
    with refuses("bench.yml", "budgetts", near="budgets"):
        read_bench(bench)


def test_an_extra_below_one_is_a_share_of_each_budget(bench: Path, tmp_path: Path):
    content = yaml.safe_load(bench.read_text()) | {"rows": {"alone": {}, "longer": {"extra_iter": 0.25}}, "seeds": [1]}
    bench.write_text(yaml.safe_dump(content | {"budgets": [50, 102]}))
    assert [run.length for run in Plan(bench, tmp_path).rows()] == [50, 62, 102, 128]


def test_a_continued_bench_wants_a_constant_learning_rate(bench: Path, tmp_path: Path):
    with refuses("bench.yml", "continued", "train.scheduler: null"):
        Plan(as_continued(bench), tmp_path).rows()


def test_the_same_run_does_not_count_as_two(bench: Path):
    whole = yaml.safe_load(bench.read_text())
    for key in ("seeds", "budgets"):
        bench.write_text(yaml.safe_dump(whole | {key: [3, 5, 3]}))
        with refuses("bench.yml", key, "3 stands twice"):
            read_bench(bench)
    bench.write_text(yaml.safe_dump(whole | {"rows": {"output + map": {}, "output map": {}}}))
    with refuses("bench.yml", "'output + map'", "'output map'", "output_map"):
        read_bench(bench)


def test_a_misspelt_key_before_the_rows_is_refused(bench: Path):
    bench.write_text(bench.read_text() + "before: {t: {bass: base.yml, iterations: 3}}\n")
    with refuses("bench.yml", "before.t.bass", near="base"):
        read_bench(bench)


def test_one_name_for_two_things_is_refused(bench: Path):
    bench.write_text(bench.read_text() + "tested: {alone: {scale: 4}}\n")
    with refuses("bench.yml", "'alone'"):
        read_bench(bench)


def test_runs_of_different_lengths_are_refused(bench: Path, tmp_path: Path):
    with_row(bench, {"train.patience": 3})
    with refuses("b, with", "train.patience", "null"):
        Plan(bench, tmp_path).rows()
