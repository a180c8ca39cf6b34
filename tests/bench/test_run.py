"""A bench runs what is missing, and reads off what each run came to."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from kdsr_arch.bench.outcomes import Outcome, note_outcome, outcome, outcomes_of
from kdsr_arch.bench.plan import Plan, read_bench
from kdsr_arch.bench.run import carry_out, run_bench
from kdsr_arch.bench.summary import markdown, summarize, write_tables
from kdsr_arch.cli import main
from kdsr_arch.data.store.teacher_store import TeacherStore
from kdsr_arch.io import save_tensors
from kdsr_arch.parallel.subcommands import Subcommands
from kdsr_arch.registry import build
from tests.helpers.benches import as_continued, finish, with_row
from tests.helpers.images import write_textures
from tests.helpers.messages import refuses


def test_finished_runs_are_not_repeated_and_give_the_table(bench: Path, tmp_path: Path):
    plan = Plan(bench, tmp_path)
    for run in plan.rows():
        finish(run, {"alone": 30.0, "with": 30.5}[run.row] + run.seed * 0.1)
    run_bench(plan)  # would fail if it trained: there is no data
    outcomes = outcomes_of(plan.runs())
    assert len(outcomes) == 8
    record = next(r for r in summarize(outcomes, "alone") if r["row"] == "with" and r["budget"] == 100)
    assert record["metrics"]["val psnr"]["mean"] == pytest.approx(30.65)
    assert record["metrics"]["val psnr"]["std"] == pytest.approx(0.1 / 2**0.5)
    assert record["ratios"] == {"ratio/a": 0.5}
    assert record["gain"]["values"] == pytest.approx([0.5, 0.5])
    page = write_tables(outcomes, tmp_path / "results" / "b", plan.bench, "kdsr bench b.yml")
    assert "| with | 2 | 30.650 ± 0.071 | +0.500 ± 0.000 | a 0.5 | 12 |" in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["runs"] == [outcome.model_dump() for outcome in outcomes]


def test_a_continued_run_is_one_experiment_read_off_at_each_budget(bench: Path, tmp_path: Path):
    rows = {"alone": {}, "alone longer": {"extra_iter": 30}, "taught": {"train.ema_decay": 0.5}}
    as_continued(bench, common={"train.scheduler": None}, rows=rows, seeds=[1])
    short, short_longer, taught, long, long_longer, _ = Plan(bench, tmp_path).rows()
    assert short.experiment == long.experiment == long_longer.experiment == short_longer.experiment != taught.experiment
    assert [r.length for r in (short, short_longer, long, long_longer)] == [50, 80, 100, 130]
    assert len({r.marker for r in (short, short_longer, long, long_longer)}) == 4
    totals = [yaml.safe_load(r.options.read_text())["train"]["total_iter"] for r in (short, long)]
    assert totals == [50, 100]
    finish(short, 30.0)
    assert outcome(short) is not None and outcome(long) is None
    with (long.experiment / "history.jsonl").open(
        "w"
    ) as file:  # going on rewrites the history, and scores fewer sets at the smaller budget
        file.write(json.dumps({"kind": "val", "iter": 100, "dataset": "val", "psnr": 31.0}) + "\n")
    note_outcome(long, 20.0)
    assert [outcome(r).val["val"]["psnr"] for r in (short, long)] == [30.0, 31.0]


def test_what_prolongs_a_run_comes_after_it(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows: dict[str, dict] = {"alone": {}, "alone longer": {"extra_iter": 30}}
    trained: list[int] = []
    as_continued(bench, common={"train.scheduler": None}, rows=rows, seeds=[1], budgets=[50, 60])
    monkeypatch.setattr("kdsr_arch.bench.run.carry_out", lambda run, *_: trained.append(run.length))
    run_bench(Plan(bench, tmp_path), jobs=1)
    assert trained == [50, 60, 80, 90]


def test_a_misspelt_row_to_run_only_is_refused(bench: Path, tmp_path: Path, trained: list[str]):
    with refuses("'alon'", near="alone"):
        run_bench(Plan(bench, tmp_path), only=["alon"])
    with refuses("--jobs 0"):
        run_bench(Plan(bench, tmp_path), jobs=0)
    assert trained == []


def test_the_exit_code_is_that_of_the_rows_that_were_asked_for(bench: Path, tmp_path: Path, trained: list[str]):
    for run in Plan(bench, tmp_path).rows():
        if run.row == "alone":
            finish(run, 30.0)
    words = ["bench", str(bench), "-o", str(tmp_path / "table")]
    assert [main([*words, *only]) for only in ([], ["--only", "alone"], ["--only", "with"])] == [1, 0, 1]


def test_options_at_fault_in_any_row_are_told_before_the_first_is_trained(
    bench: Path, tmp_path: Path, trained: list[str]
):
    with_row(bench, {"train.distill_opt.b.loss_wieght": 0.5, "train.optim_g.typ": "SGD"})
    with refuses("bench.yml", "with: train.distill_opt.b.loss_wieght", near="loss_weight", without=["alone"]):
        run_bench(Plan(bench, tmp_path))
    assert trained == []
    with_row(bench, {"train.distill_opt.b.loss_weight": 0.5})
    run_bench(Plan(bench, tmp_path))
    assert len(trained) == 8


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
    finish(teacher, 33.0)
    for run in runs[1:]:
        finish(run, 30.0)
    run_bench(Plan(bench, tmp_path))  # trains the one that is missing from the store that it makes
    assert (runs[0].experiment / "models" / "net_g_latest.pth").exists()
    store = TeacherStore(tmp_path / path)
    assert set(store.names) == {"output", "conv_first"} and store.orientations == [0, 1]
    assert all(len(crops) == 2 for crops in store.crops.values())

    given["teacher_cache"]["crops"] = 3
    bench.write_text(yaml.safe_dump(given))
    with refuses("teacher_cache", "crops: 2 -> 3"):
        run_bench(Plan(bench, tmp_path))


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
        finish(run, 30.0)
    run_bench(Plan(bench, tmp_path))
    result = outcome(test)
    assert result is not None and 5 < result.val["noise"]["psnr"] < 30 and result.reference
    assert "| bicubic | 1 | " in markdown(summarize([result], "alone"), command="c", protocol="Y")

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
    text = markdown(summarize([result], ""), command="c", protocol="Y")
    assert "| bicubic | 1 | 26.100 | - | - | 1 |" in text and "iterations" not in text


def test_a_run_without_a_score_at_its_end_has_failed(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Plan(bench, tmp_path).rows()[0]

    def train(*_):
        finish(run, 30.0)
        run.marker.unlink()
        (run.experiment / "history.jsonl").write_text("")

    monkeypatch.setattr(Subcommands, "run", train)
    failure = carry_out(run, Subcommands(tmp_path, 1))
    assert failure is not None and str(run.experiment) in failure and f"iteration {run.length}" in failure
