"""What runs came to, and what has changed since."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from kdsr_arch.bench.outcomes import (
    changed_options,
    note_outcome,
    outcome,
    outcomes_of,
    outdated,
    seconds_spent,
    write_seconds,
)
from kdsr_arch.bench.plan import Plan, Run
from kdsr_arch.bench.run import run_bench
from kdsr_arch.bench.summary import write_tables
from kdsr_arch.io import write_bytes
from tests.helpers.benches import finish
from tests.helpers.plugins import ARCH, write_files


def test_options_that_change_are_told_of_rows_that_are_done_and_refused_for_those_begun(
    bench: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    runs = Plan(bench, tmp_path).rows()
    for run in runs:
        finish(run, 30.0)
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
        finish(run, 30.0)
        write_files(run.experiment / "imports", files)  # as a training records them
    assert outdated(Plan(bench, tmp_path).runs()) == []
    write_files(bench.parent, {"archs/helper.py": "A = 2"})
    place = bench.parent / "archs" / "helper.py"
    assert outdated(Plan(bench, tmp_path).runs()) == [
        f"changed after these rows were trained (alone, with): {place} was edited"
    ]


def _finished(bench: Path, root: Path, **changes) -> list[Run]:
    bench.write_text(yaml.safe_dump(yaml.safe_load(bench.read_text()) | {"budgets": [50], "seeds": [1]} | changes))
    runs = Plan(bench, root).rows()
    for run in runs:
        if not run.experiment.exists():
            finish(run, 30.0)
            write_bytes(run.experiment / run.options.name, run.options.read_bytes())
    return runs


def test_another_validation_is_told_of_rows_that_are_done_and_does_not_keep_others_from_going_on(
    bench: Path, tmp_path: Path
):
    val = {"datasets.val": {"name": "val", "type": "ClipDataset", "dataroot_gt": "clips"}}
    _finished(bench, tmp_path, common=val)
    val["datasets.val"]["dataroot_gt"] = "others"
    runs = _finished(bench, tmp_path, common=val)
    (sentence,) = outdated(runs)
    assert "(alone, with)" in sentence and 'datasets.val.dataroot_gt: "clips" -> "others"' in sentence
    assert changed_options(runs[0], result=False) == []


def test_another_teacher_is_told_of_rows_that_are_done(bench: Path, tmp_path: Path):
    weights = tmp_path / "teacher.pth"
    weights.write_bytes(b"first")
    runs = _finished(bench, tmp_path, common={"path.pretrain_network_t": str(weights)})
    assert outdated(runs) == []
    weights.write_bytes(b"second")
    assert outdated(runs) == ["changed after these rows were trained (with): the weights of network_t"]
    weights.unlink()  # the rows are done, and need it no more
    assert outdated(runs) == []


def test_a_score_that_is_no_number_does_not_count(bench: Path, tmp_path: Path):
    run = Plan(bench, tmp_path).rows()[0]
    finish(run, 30.0)
    record = {"kind": "val", "iter": run.length, "dataset": "val", "protocol": "Y", "psnr": 30.0, "tof": float("nan")}
    (run.experiment / "history.jsonl").write_text(json.dumps(record))
    note_outcome(run, 1.0)
    result = outcome(run)
    assert result is not None and result.val == {"val": {"protocol": "Y", "psnr": 30.0}}


def test_the_stretches_of_an_interrupted_run_add_up(bench: Path, tmp_path: Path):
    run = Plan(bench, tmp_path).rows()[0]
    assert seconds_spent(run) == 0
    write_seconds(run, 5.0)  # it never began
    assert not run.experiment.exists()
    finish(run, 30.0)
    assert seconds_spent(run) == 12.5  # of a bench of an earlier version
    write_seconds(run, 20.0)
    assert seconds_spent(run) == 20.0
