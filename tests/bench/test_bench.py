"""The bench driver: planning, reading outcomes, tables."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import yaml
from matplotlib.axes import Axes
from scipy import stats

from kdsr_arch.bench import curves
from kdsr_arch.bench.curves import _common, histories, levels, plot_bench, plot_costs, plot_gains
from kdsr_arch.bench.plan import Plan, Run, override, read_bench, set_budget
from kdsr_arch.bench.run import Outcome, changed_options, note, note_outcome, outcome, outcomes_of, outdated, run_bench
from kdsr_arch.bench.summary import markdown, paired, spread, spread_text, summarize, write_tables
from kdsr_arch.bench.taken import kept_options, take
from kdsr_arch.cli import main
from kdsr_arch.data.store.teacher_store import TeacherStore
from kdsr_arch.io import save_tensors, write_bytes
from kdsr_arch.registry import build
from kdsr_arch.report.training_curves import val_curve
from tests.helpers.images import write_textures
from tests.helpers.messages import refuses
from tests.helpers.plugins import ARCH, write_files

BASE = {
    "name": "base",
    "model_type": "VideoDistillModel",
    "scale": 4,
    "manual_seed": 0,
    "datasets": {"train": {"type": "ClipDataset", "dataroot_gt": "clips", "gt_size": 32, "batch_size_per_gpu": 1}},
    "network_g": {"type": "VESPCN"},
    "network_t": {"type": "EDVR"},
    "train": {
        "total_iter": 100,
        "optim_g": {"type": "Adam"},
        "pixel_opt": {"type": "L1Loss"},
        "scheduler": {"type": "MultiStepLR", "milestones": [40, 80]},
        "stages": [{"iters": 60}, {"iters": 40}],
        "distill_opt": {"a": {"type": "L1Loss"}, "b": {"type": "L1Loss"}},
    },
}


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    (tmp_path / "options").mkdir()
    (tmp_path / "options" / "base.yml").write_text(yaml.safe_dump(BASE))
    file = tmp_path / "options" / "bench.yml"
    file.write_text(
        yaml.safe_dump(
            {
                "name": "b",
                "base": "base.yml",
                "seeds": [1, 2],
                "budgets": [50, 100],
                "common": {"val.val_freq": 10},
                "rows": {"alone": {"network_t": None, "train.distill_opt": None}, "with": {}},
            }
        )
    )
    return file


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


def _finish(run, psnr: float) -> None:
    run.experiment.mkdir(parents=True)
    records = [
        {"kind": "train", "iter": run.budget, "l_pix": 0.1, "ratio/a": 0.5},
        {"kind": "val", "iter": run.budget, "dataset": "val", "protocol": "Y", "psnr": psnr},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run.experiment / "history.jsonl").write_text(text + '{"kind": "tr')  # a killed run may leave half a line
    note_outcome(run, 12.5)


def test_finished_runs_are_not_repeated_and_give_the_table(bench: Path, tmp_path: Path):
    plan = Plan(bench, tmp_path)
    for run in plan.rows():
        _finish(run, {"alone": 30.0, "with": 30.5}[run.row] + run.seed * 0.1)
    run_bench(plan)  # would fail if it trained: there is no data
    outcomes = outcomes_of(plan.runs())
    assert len(outcomes) == 8
    record = next(r for r in summarize(outcomes) if r["row"] == "with" and r["budget"] == 100)
    assert record["metrics"]["val psnr"]["mean"] == pytest.approx(30.65)
    assert record["metrics"]["val psnr"]["std"] == pytest.approx(0.1 / 2**0.5)
    assert record["ratios"] == {"ratio/a": 0.5}
    assert record["gain"]["values"] == pytest.approx([0.5, 0.5])
    page = write_tables(outcomes, tmp_path / "results" / "b", plan.bench, "kdsr bench b.yml")
    assert "| with | 2 | 30.650 ± 0.071 | +0.500 ± 0.000 | a 0.5 | 12 |" in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["runs"] == [outcome.model_dump() for outcome in outcomes]


def test_gains_over_a_further_row_have_a_column(bench: Path, tmp_path: Path):
    bench.write_text(bench.read_text() + "against: [with]\n")
    plan = Plan(bench, tmp_path)
    for run in plan.rows():
        _finish(run, {"alone": 30.0 + run.seed * 0.2, "with": 30.5}[run.row])
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
        _finish(run, psnr[run.row, run.budget][run.seed - 1])
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


def test_a_published_order_of_rows_that_are_not_there_is_refused(bench: Path):
    bench.write_text(bench.read_text() + "published: {order: [alone, wiht], source: x}\n")
    with refuses("bench.yml", "published.order", "'wiht'", near="with"):
        read_bench(bench)


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


def test_psnr_is_drawn_against_cost_without_labels_on_one_another(tmp_path: Path):
    frame = {"milliseconds": 1.0, "width": 320, "height": 180, "device": "cpu", "threads": 1}

    def tested(row: str, adds: float, psnr: float, parameters: int = 10) -> Outcome:
        cost = {"parameters": parameters, "multiply_adds": adds, **frame}
        return Outcome(row=row, reference=True, val={"Set5": {"psnr": psnr}}, seconds=1, ratios={}, cost=cost)

    nets = [tested("ours", 1e9, 31.0), tested("another one", 1.02e9, 30.98), tested("third", 9e9, 32.0)]
    drawn = {}
    with mock.patch.object(curves, "_free_places", side_effect=curves._free_places) as places:
        picture = plot_costs([*nets, tested("bicubic", 0.0, 28.0, parameters=0)], tmp_path / "costs.png")
        (axes, points), _ = places.call_args
        shifts = dict(zip(points, curves._free_places(axes, points), strict=True))
    for row, (x, y) in points.items():
        px, py = axes.transData.transform((x, y)) * 72 / axes.figure.dpi
        dx, dy = shifts[row]
        drawn[row] = (px + dx, py + dy, px + dx + 4.6 * len(row), py + dy + 10)
    assert set(drawn) == {"ours", "another one", "third"} and picture.stat().st_size > 5000
    assert not any(curves._overlap(drawn[a], drawn[b]) for a in drawn for b in drawn if a != b)


def test_gains_are_drawn_with_their_intervals_against_the_budget(tmp_path: Path):
    def trained(row: str, budget: int, *scores: float) -> list[Outcome]:
        runs = [
            {"row": row, "seed": seed, "budget": budget, "val": {"s": {"psnr": v}}} for seed, v in enumerate(scores)
        ]
        return [Outcome(**run, seconds=1, ratios={}) for run in runs]

    outcomes = [*trained("alone", 100, 20, 21), *trained("alone", 900, 25, 25)]
    outcomes += [*trained("taught", 900, 25.5, 25.5), *trained("taught", 100, 20.1, 21.3)]
    with mock.patch("matplotlib.axes.Axes.errorbar", autospec=True, side_effect=Axes.errorbar) as drawn:
        picture = plot_gains(summarize(outcomes), tmp_path / "gains.png", "alone")
    ((_, budgets, means, halves), style), *others = drawn.call_args_list
    assert (list(budgets), style["label"], others) == ([100, 900], "taught", [])
    assert means == pytest.approx((0.2, 0.5)) and halves == pytest.approx((12.7062 * 0.1, 0), rel=1e-4)  # t of 1 degree
    assert cv2.imread(str(picture)).std() > 5


def test_a_misspelt_key_is_refused_with_the_nearest(bench: Path):
    bench.write_text(bench.read_text().replace("budgets", "budgetts"))
    with refuses("bench.yml", "budgetts", near="budgets"):
        read_bench(bench)


def test_learning_curves_are_means_over_the_seeds_both_have(tmp_path: Path):
    def history(*values: float) -> list[dict]:
        return [{"kind": "val", "iter": 10 * i, "dataset": "val", "psnr": v} for i, v in enumerate(values, 1)]

    other = [{"kind": "val", "iter": 20, "dataset": "val_2", "psnr": 90.0}]
    curves = [val_curve(history(20, 24, 28) + other), val_curve(history(22, 26))]
    iterations, values = _common(curves)
    assert iterations == [10, 20] and values.mean(0).tolist() == [21, 25]
    rows = {"alone": [history(20, 24), history(22, 26)], "empty": [[]]}
    picture = plot_bench(rows, tmp_path / "c.png", levels={"t": 25})
    assert cv2.imread(str(picture)).std() > 5


def _as_continued(bench: Path, **changes) -> Path:
    content = yaml.safe_load(bench.read_text()) | {"continued": True} | changes
    bench.write_text(yaml.safe_dump(content))
    return bench


def test_a_continued_run_is_one_experiment_read_off_at_each_budget(bench: Path, tmp_path: Path):
    rows = {"alone": {}, "alone longer": {"extra_iter": 30}, "taught": {"train.ema_decay": 0.5}}
    _as_continued(bench, common={"train.scheduler": None}, rows=rows, seeds=[1])
    short, short_longer, taught, long, long_longer, _ = Plan(bench, tmp_path).rows()
    assert short.experiment == long.experiment == long_longer.experiment == short_longer.experiment != taught.experiment
    assert [r.length for r in (short, short_longer, long, long_longer)] == [50, 80, 100, 130]
    assert len({r.marker for r in (short, short_longer, long, long_longer)}) == 4
    totals = [yaml.safe_load(r.options.read_text())["train"]["total_iter"] for r in (short, long)]
    assert totals == [50, 100]
    _finish(short, 30.0)
    assert outcome(short) is not None and outcome(long) is None
    with (long.experiment / "history.jsonl").open(
        "w"
    ) as file:  # going on rewrites the history, and scores fewer sets at the smaller budget
        file.write(json.dumps({"kind": "val", "iter": 100, "dataset": "val", "psnr": 31.0}) + "\n")
    note_outcome(long, 20.0)
    assert [outcome(r).val["val"]["psnr"] for r in (short, long)] == [30.0, 31.0]


def test_an_extra_below_one_is_a_share_of_each_budget(bench: Path, tmp_path: Path):
    content = yaml.safe_load(bench.read_text()) | {"rows": {"alone": {}, "longer": {"extra_iter": 0.25}}, "seeds": [1]}
    bench.write_text(yaml.safe_dump(content | {"budgets": [50, 102]}))
    assert [run.length for run in Plan(bench, tmp_path).rows()] == [50, 62, 102, 128]


def test_what_prolongs_a_run_comes_after_it(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows: dict[str, dict] = {"alone": {}, "alone longer": {"extra_iter": 30}}
    trained: list[int] = []
    _as_continued(bench, common={"train.scheduler": None}, rows=rows, seeds=[1], budgets=[50, 60])
    monkeypatch.setattr("kdsr_arch.bench.run.carry_out", lambda run, *_: trained.append(run.length))
    run_bench(Plan(bench, tmp_path), jobs=1)
    assert trained == [50, 60, 80, 90]


def test_a_continued_bench_wants_a_constant_learning_rate(bench: Path, tmp_path: Path):
    with refuses("bench.yml", "continued", "train.scheduler: null"):
        Plan(_as_continued(bench), tmp_path).rows()


def test_what_is_trained_before_the_rows_stands_in_every_table(bench: Path, tmp_path: Path):
    first = {"teacher": {"base": "base.yml", "iterations": 50, "change": {"train.distill_opt": None}}}  # as a budget
    bench.write_text(yaml.safe_dump(yaml.safe_load(bench.read_text()) | {"before": first}))
    (teacher,) = Plan(bench, tmp_path).before()
    options = yaml.safe_load(teacher.options.read_text())
    assert options["train"]["total_iter"] == 50 and options["val"] == {"val_freq": 10}
    assert options["name"] == "bench/b/teacher" and "distill_opt" not in options["train"]
    _finish(teacher, 33.0)
    for run in Plan(bench, tmp_path).rows():
        _finish(run, 30.0)
    text = markdown(summarize(outcomes_of(Plan(bench, tmp_path).runs())), command="c", protocol="Y")
    assert text.count("| teacher (50 iterations) | 1 | 33.000 | - |") == 2


def _with_row(bench: Path, changes: dict) -> None:
    given = yaml.safe_load(bench.read_text())
    given["rows"]["with"] = changes
    bench.write_text(yaml.safe_dump(given))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Name the runs that a bench would train."""
    names: list[str] = []
    monkeypatch.setattr("kdsr_arch.bench.run.carry_out", lambda run, *_: names.append(run.label))
    return names


def test_a_misspelt_row_to_run_only_is_refused(bench: Path, tmp_path: Path, trained: list[str]):
    with refuses("'alon'", near="alone"):
        run_bench(Plan(bench, tmp_path), only=["alon"])
    with refuses("--jobs 0"):
        run_bench(Plan(bench, tmp_path), jobs=0)
    assert trained == []


def test_the_exit_code_is_that_of_the_rows_that_were_asked_for(bench: Path, tmp_path: Path, trained: list[str]):
    for run in Plan(bench, tmp_path).rows():
        if run.row == "alone":
            _finish(run, 30.0)
    words = ["bench", str(bench), "-o", str(tmp_path / "table")]
    assert [main([*words, *only]) for only in ([], ["--only", "alone"], ["--only", "with"])] == [1, 0, 1]


def test_options_at_fault_in_any_row_are_told_before_the_first_is_trained(
    bench: Path, tmp_path: Path, trained: list[str]
):
    _with_row(bench, {"train.distill_opt.b.loss_wieght": 0.5, "train.optim_g.typ": "SGD"})
    with refuses("bench.yml", "with: train.distill_opt.b.loss_wieght", near="loss_weight", without=["alone"]):
        run_bench(Plan(bench, tmp_path))
    assert trained == []
    _with_row(bench, {"train.distill_opt.b.loss_weight": 0.5})
    run_bench(Plan(bench, tmp_path))
    assert len(trained) == 8


def test_the_same_run_does_not_count_as_two(bench: Path):
    whole = yaml.safe_load(bench.read_text())
    for key in ("seeds", "budgets"):
        bench.write_text(yaml.safe_dump(whole | {key: [3, 5, 3]}))
        with refuses("bench.yml", key, "3 stands twice"):
            read_bench(bench)
    bench.write_text(yaml.safe_dump(whole | {"rows": {"output + map": {}, "output map": {}}}))
    with refuses("bench.yml", "'output + map'", "'output map'", "output_map"):
        read_bench(bench)


@pytest.mark.slow
def test_rows_read_what_the_teacher_made_of_the_images_once_before_them(bench: Path, tmp_path: Path):
    given = yaml.safe_load(bench.read_text()) | {"budgets": [2], "seeds": [1]}
    given["teacher_cache"] = {"taps": ["conv_first"], "crops": 2}
    given["before"] = {"teacher": {"base": "base.yml", "iterations": 50}}
    given["rows"]["live"] = {"datasets.train.teacher_cache": None}
    write_textures(tmp_path / "images", 1, 48, 64)
    net = {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 4}
    save_tensors({"params": build("network", net, "network_g").state_dict()}, tmp_path / "teacher.pth")
    given["common"] = {
        "model_type": "ImageDistillModel",
        "scale": 4,
        "num_gpu": 0,
        "network_g": net,
        "network_t": net,
        "path.pretrain_network_t": str(tmp_path / "teacher.pth"),
        "train.optim_g": {"type": "Adam"},
        "train.scheduler": None,
        "train.stages": None,
        "train.pixel_opt": {"type": "L1Loss"},
        "datasets.train": {
            "name": "noise",
            "type": "ImagePairDataset",
            "gt_size": 32,
            "use_hflip": True,
            "dataroot_gt": str(tmp_path / "images"),
            "batch_size_per_gpu": 1,
        },
    }
    bench.write_text(yaml.safe_dump(given))
    plan = Plan(bench, tmp_path)
    (teacher,), runs = plan.before(), plan.rows()
    read = {run.row: yaml.safe_load(run.options.read_text())["datasets"]["train"].get("teacher_cache") for run in runs}
    path = "experiments/bench/b/teacher.lmdb"
    assert read == {"alone": path, "with": path, "live": None}
    assert "teacher_cache" not in teacher.options.read_text()
    _finish(teacher, 33.0)
    for run in runs[1:]:
        _finish(run, 30.0)
    run_bench(Plan(bench, tmp_path))  # trains the one that is missing from the store that it makes
    assert (runs[0].experiment / "models" / "net_g_latest.pth").exists()
    store = TeacherStore(tmp_path / path)
    assert set(store.names) == {"output", "conv_first"} and store.orientations == [0, 1]
    assert all(len(crops) == 2 for crops in store.crops.values())

    given["teacher_cache"]["crops"] = 3
    bench.write_text(yaml.safe_dump(given))
    with refuses("teacher_cache", "crops: 2 -> 3"):
        run_bench(Plan(bench, tmp_path))


def test_options_that_change_are_told_of_rows_that_are_done_and_refused_for_those_begun(
    bench: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    runs = Plan(bench, tmp_path).rows()
    for run in runs:
        _finish(run, 30.0)
        write_bytes(run.experiment / run.options.name, b"# GENERATE TIME\n" + run.options.read_bytes())  # as a training
    runs[0].marker.unlink()  # begun, not finished
    given = yaml.safe_load(bench.read_text())

    alike = {"val.val_freq": 20, "logger.print_freq": 7, "datasets.train.num_worker_per_gpu": 0}
    alike |= {"train.grad_clip": None, "train.optim_g.lr": 0.001}  # Adam's own rate
    bench.write_text(yaml.safe_dump(given | {"common": alike}))
    assert [changed_options(run) for run in Plan(bench, tmp_path).rows()] == [[]] * 8
    faster = given["rows"]["alone"] | {"train.optim_g.lr": 0.01}
    bench.write_text(yaml.safe_dump(given | {"rows": {"alone": faster, "with": {}}}))
    plan = Plan(bench, tmp_path)
    (sentence,) = outdated(plan.runs())
    assert sentence == "changed after these rows were trained (alone): train.optim_g.lr: absent -> 0.01"
    assert len(outcomes_of(plan.runs())) == 7  # kept nonetheless
    run_bench(plan)
    said = capfd.readouterr()
    assert f"warning: {sentence}" in said.err
    assert f"{runs[0].experiment}: begun with other options (train.optim_g.lr: absent -> 0.01)" in said.err
    page = write_tables(outcomes_of(plan.runs()), tmp_path / "b", plan.bench, "c", outdated(plan.runs()))
    assert page.read_text().rstrip().endswith(f"- {sentence}")


def test_an_edited_file_of_an_import_is_told(bench: Path, tmp_path: Path):
    files = {"archs/own_arch.py": ARCH, "archs/helper.py": "A = 1"}
    write_files(bench.parent, files)
    given = yaml.safe_load(bench.read_text())
    bench.write_text(yaml.safe_dump(given | {"common": {"imports": ["./archs/own_arch.py", "installed.module"]}}))
    for run in Plan(bench, tmp_path).rows():
        _finish(run, 30.0)
        write_files(run.experiment / "imports", files)  # as a training records them
    assert outdated(Plan(bench, tmp_path).runs()) == []
    write_files(bench.parent, {"archs/helper.py": "A = 2"})
    place = bench.parent / "archs" / "helper.py"
    assert outdated(Plan(bench, tmp_path).runs()) == [
        f"changed after these rows were trained (alone, with): {place} was edited"
    ]


def test_a_misspelt_key_before_the_rows_is_refused(bench: Path):
    bench.write_text(bench.read_text() + "before: {t: {bass: base.yml, iterations: 3}}\n")
    with refuses("bench.yml", "before.t.bass", near="base"):
        read_bench(bench)


@pytest.mark.slow
def test_what_is_only_tested_stands_beside_the_rows(bench: Path, tmp_path: Path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/hr.png"), np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8))
    given = yaml.safe_load(bench.read_text())
    given["common"] = {
        "model_type": "ImageDistillModel",
        "scale": 4,
        "num_gpu": 0,
        "val.metrics.psnr": {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": True},
        "val.speed_size": None,
        "datasets.val": {
            "name": "noise",
            "type": "ImagePairDataset",
            "dataroot_gt": str(tmp_path / "images"),
            "degradation": "BI",
        },
    }
    given["tested"] = {"bicubic": {"network_g": {"type": "Bicubic", "scale": 4}}}
    bench.write_text(yaml.safe_dump(given))
    (test,) = Plan(bench, tmp_path).tested()
    options = yaml.safe_load(test.options.read_text())
    assert "train" not in options and "network_t" not in options and list(options["datasets"]) == ["val"]
    for run in Plan(bench, tmp_path).rows():
        _finish(run, 30.0)
    run_bench(Plan(bench, tmp_path))
    result = outcome(test)
    assert result is not None and 5 < result.val["noise"]["psnr"] < 30 and result.reference
    assert "| bicubic | 1 | " in markdown(summarize([result]), command="c", protocol="Y")

    given["common"]["val.metrics.psnr"]["crop_border"] = 8
    bench.write_text(yaml.safe_dump(given))
    (test,) = Plan(bench, tmp_path).tested()
    assert outcome(test) is None
    run_bench(Plan(bench, tmp_path))
    repeated = outcome(test)
    assert repeated is not None and repeated.val["noise"]["psnr"] != result.val["noise"]["psnr"]


def test_tests_alone_make_a_table_and_nothing_at_all_is_refused(bench: Path):
    given = yaml.safe_load(bench.read_text())
    bench.write_text(yaml.safe_dump({key: given[key] for key in ("name", "base")}))
    with refuses("bench.yml", "rows", "budgets", "tested"):
        read_bench(bench)
    bench.write_text(yaml.safe_dump({"name": "b", "base": "base.yml", "tested": {"bicubic": {"scale": 4}}}))
    assert read_bench(bench).rows == {}
    scores = {"walk": {"psnr": 26.1, "protocol": "Y"}}
    result = Outcome(row="bicubic", reference=True, val=scores, seconds=1.0, ratios={})
    text = markdown(summarize([result]), command="c", protocol="Y")
    assert "| bicubic | 1 | 26.100 | - | - | 1 |" in text and "iterations" not in text


def test_one_name_for_two_things_is_refused(bench: Path):
    bench.write_text(bench.read_text() + "tested: {alone: {scale: 4}}\n")
    with refuses("bench.yml", "'alone'"):
        read_bench(bench)


def test_curves_are_of_the_first_set_although_a_teacher_was_trained_without_any():
    rows = {"teacher": {}, "bicubic": {"Set5": {"psnr": 28.4}}}
    outcomes = [Outcome(row=row, reference=True, val=val, seconds=1.0, ratios={}) for row, val in rows.items()]
    assert levels(outcomes) == ("Set5", {"bicubic": 28.4})


def test_a_run_read_off_later_has_one_curve(bench: Path, tmp_path: Path):
    rows = {"alone": {"train.pixel_opt.loss_weight": 0.5}, "alone longer": {"extra_iter": 30}}
    rows["alone longer"] |= rows["alone"]
    _as_continued(bench, common={"train.scheduler": None}, rows=rows, seeds=[1, 2], budgets=[50])
    runs = Plan(bench, tmp_path).rows()
    for run in runs:
        run.experiment.mkdir(parents=True, exist_ok=True)
        lines = [
            {"kind": "train", "iter": 40, "l_pix": 0.1},
            {"kind": "val", "iter": run.length, "dataset": "val", "psnr": 30.0},
        ]
        (run.experiment / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        note_outcome(run, 1.0)
    seen = histories(runs)
    assert list(seen) == ["alone"] and len(seen["alone"]) == 2
    assert [seed[0]["l_pix"] for seed in seen["alone"]] == [0.2, 0.2]  # without the row's weight of 0.5


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
            _finish(run, 30.0 + run.seed)
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

    _with_row(bench, {"train.optim_g.lr": 0.01})
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
