"""A whole training: what it writes, what it refuses, and that a refusal leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdsr_arch.options import load_options
from kdsr_arch.report.training_curves import val_curve
from kdsr_arch.train import entry
from kdsr_arch.train.meter import Meter, NonFiniteError
from kdsr_arch.train.trainer import Trainer
from tests.helpers.messages import refuses
from tests.helpers.networks import make_network
from tests.helpers.trainers import Batches
from tests.train.conftest import history

STUDENT = ("num_in_ch", "num_out_ch", "num_feat", "num_block", "upscale")  # keywords of the student of conftest.py
TEACHER = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 12, "num_block": 1, "upscale": 2}
FIT = {"fit": {"type": "FitNetLoss", "at": "body.0", "loss_weight": 0.1}}


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    path = tmp_path / "teacher.pth"
    torch.save({"params": make_network(TEACHER).state_dict()}, path)
    return str(path)


def test_files_of_a_run(run, num_gpu) -> None:
    folder = run(num_gpu=num_gpu, logger={"use_tb_logger": True}, val={"save_img": True})
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    expected = {"history.jsonl", "tiny.yml", "models/net_g_best.pth", "models/best.json", "models/net_g_latest.pth"}
    expected |= {f"models/net_g_{n}.pth" for n in (4, 8)} | {f"training_states/{n}.state" for n in (4, 8)}
    assert expected <= names
    (events,) = (n for n in names if n.startswith("tb_logger/events"))
    tags = set(EventAccumulator(str(folder / events)).Reload().Tags()["scalars"])
    assert {"losses/l_pix", "train/lr", "metrics/Val/psnr"} <= tags  # as BasicSR has them
    assert any(n.startswith("train_tiny_") and n.endswith(".log") for n in names)
    assert sum(n.startswith("visualization/") for n in names) == 2 * 6
    assert names - expected == {n for n in names if n.startswith(("tb_logger/", "train_tiny_", "visualization/"))}


def test_numbers_come_with_their_protocol_and_the_best_is_kept(run, capsys) -> None:
    folder = run()
    said = capsys.readouterr().err
    assert "Y channel, crop 2, BI x2" in said and "[3/8" in said and "[6/8" in said
    records = history(folder)
    assert [(r["kind"], r["iter"]) for r in records] == [("train", 3), ("val", 4), ("train", 6), ("val", 8)]
    values = {r["iter"]: r["psnr"] for r in records if r["kind"] == "val"}
    best = json.loads((folder / "models" / "best.json").read_text())
    assert best["value"] == max(values.values()) == values[best["iter"]]
    kept, numbered = (
        torch.load(folder / "models" / f"net_g_{n}.pth", weights_only=True) for n in ("best", best["iter"])
    )
    assert all(torch.equal(v, numbered["params_ema"][k]) for k, v in kept["params_ema"].items())
    log = next(folder.glob("train_tiny_*.log")).read_text()
    assert "ImageDistillModel" in log and "Y channel" in log and "Finished 8 iterations" in log


def test_logged_losses_are_means_over_the_window(run, monkeypatch) -> None:
    seen: list[float] = []
    original = Meter.add

    def spy(self: Any, losses: Any, iteration: int) -> None:
        seen.extend(value.item() for name, value in losses.items() if name == "l_pix")
        original(self, losses, iteration)

    monkeypatch.setattr(Meter, "add", spy)
    records = [r for r in history(run()) if r["kind"] == "train"]
    assert [r["l_pix"] for r in records] == pytest.approx([np.mean(seen[:3]), np.mean(seen[3:6])])
    assert [r["lr"] for r in records] == [[1e-3], [5e-4]]
    assert all(r["grad_norm"] > 0 for r in records)


def test_validation_and_workers_leave_the_training_alone(run, placed) -> None:
    folder = run(**placed)
    weights = torch.load(folder / "models" / "net_g_latest.pth", weights_only=True)
    for changes in ({"val": {"val_freq": 1}}, {"datasets": {"train": {"num_worker_per_gpu": 2}}}, {"val": None}):
        other = torch.load(run(**placed, **changes) / "models" / "net_g_latest.pth", weights_only=True)
        assert all(torch.equal(v, other["params"][k]) for k, v in weights["params"].items())


def test_accumulated_halves_equal_the_whole_batch(run, num_gpu) -> None:
    whole = {"datasets": {"train": {"batch_size_per_gpu": 8}}}
    one, two = (
        torch.load(run(num_gpu=num_gpu, **c) / "models" / "net_g_8.pth", weights_only=True)["params"]
        for c in (whole, {"train": {"accumulation": 2}})
    )
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-4, atol=1e-5)


def test_student_file_is_pure_and_stock_basicsr_reads_it(run, num_gpu, teacher) -> None:
    from basicsr.models.sr_model import SRModel

    taught = {"network_t": TEACHER, "path": {"pretrain_network_t": teacher}, "train": {"distill_opt": FIT}}
    folder = run(num_gpu=num_gpu, **taught)
    path = folder / "models" / "net_g_8.pth"
    saved = torch.load(path, weights_only=True)
    assert set(saved) == {"params", "params_ema"}
    student = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "upscale": 2}
    for key, weights in saved.items():
        assert list(weights) == list(make_network(student).state_dict())
        options = {"pretrain_network_g": str(path), "param_key_g": key, "strict_load_g": True}
        model = SRModel({"num_gpu": 0, "dist": False, "is_train": False, "network_g": student, "path": options})
        assert all(torch.equal(v, weights[k]) for k, v in model.net_g.state_dict().items())


def test_state_holds_no_teacher(run, teacher) -> None:
    folder = run(network_t=TEACHER, path={"pretrain_network_t": teacher}, train={"distill_opt": FIT})
    state = torch.load(folder / "training_states" / "8.state", weights_only=True)
    shapes = [tuple(v.shape) for part in ("net_g", "net_g_ema", "train_only") for v in state["model"][part].values()]
    assert (8, 3, 3, 3) in shapes and (12, 3, 3, 3) not in shapes
    assert (12, 8, 1, 1) in shapes  # the adapter


def test_teacher_stays_as_it_was(load, teacher) -> None:
    trainer = Trainer(load(network_t=TEACHER, path={"pretrain_network_t": teacher}, train={"distill_opt": FIT}))
    for iteration in range(1, 9):
        trainer.step(iteration)
    saved = torch.load(teacher, weights_only=True)["params"]
    assert all(torch.equal(v, saved[k]) for k, v in trainer.model.task._teacher.net.state_dict().items())


@pytest.mark.parametrize("start", [entry.dry_run, entry.train])
@pytest.mark.parametrize(
    ("loss", "stage", "names"),
    [("WaveletLoss", {"gt_size": 24}, ["24x24", "gt_size 24"]), ("RKDLoss", {"batch_size_per_gpu": 1}, [3, "got 1"])],
)
def test_a_later_stage_that_fits_no_term_is_told_before_the_training(loss, stage, names, start, load) -> None:
    term = {"type": loss, "student": "output", "teacher": "gt"}
    opt = load(train={"distill_opt": {"t": term}, "stages": [{"iters": 4}, {"iters": 4, **stage}]})
    with refuses("train.stages", loss, *names):
        start(opt)
    assert not opt.folder.exists()


def test_previous_run_is_archived_not_overwritten(run) -> None:
    folder = run()
    (folder / "mark").write_text("mine")
    run()
    assert not (folder / "mark").exists()
    archived = [p for p in folder.parent.iterdir() if p.name.startswith("tiny_archived_")]
    assert len(archived) == 1 and (archived[0] / "mark").read_text() == "mine"


def test_an_option_file_in_the_folder_that_is_archived_comes_along(run, tmp_path: Path) -> None:
    file = run() / "tiny.yml"
    opt = load_options(file, is_train=True)
    assert opt.folder == file.parent and entry.train(opt) == 0
    assert load_options(file, is_train=True).plain() == opt.plain()


def test_keep_last(run) -> None:
    folder = run(logger={"save_checkpoint_freq": 2, "keep_last": 2})
    assert sorted(p.name for p in (folder / "training_states").iterdir()) == ["6.state", "8.state"]


@pytest.mark.parametrize("model_type", ["ImageDistillModel", "SRModel"])
def test_non_finite_loss_names_the_term_and_keeps_the_last_good_state(model_type, run, monkeypatch, tmp_path) -> None:
    from basicsr.losses.basic_loss import L1Loss

    original, calls = L1Loss.forward, [0]

    def poisoned(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls[0] += len(args[0]) > 1  # the dry run's is a batch of one
        return original(self, *args, **kwargs) * (float("nan") if calls[0] == 6 else 1.0)

    monkeypatch.setattr(L1Loss, "forward", poisoned)
    with refuses("iteration 6", "l_pix", "iteration 4", kind=NonFiniteError):
        run(model_type=model_type)
    folder = tmp_path / "experiments" / "tiny"
    assert [p.name for p in (folder / "training_states").iterdir()] == ["4.state"]
    state = torch.load(folder / "training_states" / "4.state", weights_only=True)
    assert "l_pix became NaN" in next(folder.glob("train_tiny_*.log")).read_text()
    assert state["iter"] == 4


def test_non_finite_input_is_named(load) -> None:
    trainer = Trainer(load())
    batch = next(trainer.batches)
    batch["lq"][0, 0, 0, 0] = float("nan")
    trainer.batches = Batches([batch])
    before = {k: v.clone() for k, v in trainer.model.student.state_dict().items()}
    with refuses("iteration 1", "l_pix", "batch", "lq", without=["gt"], kind=NonFiniteError):
        trainer.step(1)
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.student.state_dict().items())


def test_non_finite_gradient_stops_before_the_weights_are_touched(load) -> None:
    trainer = Trainer(load())
    student = trainer.model.student
    student.conv_last.weight.register_hook(lambda g: g * float("inf"))
    before = {k: v.clone() for k, v in student.state_dict().items()}
    with refuses("iteration 1", "grad_norm", kind=NonFiniteError):
        trainer.step(1)
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())


BAD = {
    "no teacher file": (
        {"network_t": TEACHER, "path": {"pretrain_network_t": "none.pth"}},
        ["path.pretrain_network_t", "none.pth"],
    ),
    "no teacher weights named": ({"network_t": TEACHER}, ["path.pretrain_network_t"]),
    "wrong tap": (
        {"train": {"distill_opt": {"fit": {**FIT["fit"], "at": "body.7"}}}, "network_t": TEACHER},
        ["train.distill_opt.fit", "'body.7'", "'body.0'"],
    ),
    "data missing": ({"datasets": {"train": {"dataroot_gt": "nowhere"}}}, ["datasets.train", "nowhere"]),
    "validation data missing": ({"datasets": {"val": {"dataroot_gt": "nowhere"}}}, ["datasets.val", "nowhere"]),
    "crop too large": ({"datasets": {"train": {"gt_size": 64}}}, ["datasets.train", "32x32", "gt_size 64"]),
    "optimizer": ({"train": {"optim_g": {"lr": -1.0}}}, ["train.optim_g.lr", -1]),
    "metric": (
        {"val": {"metrics": {"psnr": {"type": "calculate_psnrr"}}}},
        ["val.metrics.psnr", "'calculate_psnrr'", "'calculate_psnr'"],
    ),
    "missing state": ({"path": {"resume_state": "none.state"}}, ["none.state"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(case, load, teacher, tmp_path) -> None:
    changes, names = BAD[case]
    if "network_t" in changes and "path" not in changes and case != "no teacher weights named":
        changes = {**changes, "path": {"pretrain_network_t": teacher}}
    with refuses(*names):
        entry.train(load(**changes))
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize("fault", ["truncated", "other shapes", "no checkpoint"])
def test_unusable_teacher_weights(fault, load, teacher, tmp_path) -> None:
    path = Path(teacher)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif fault == "no checkpoint":
        path.write_text("hello")
    else:
        torch.save({"params": make_network({**TEACHER, "num_feat": 10}).state_dict()}, path)
    reason = "conv_first.weight" if fault == "other shapes" else "damaged"
    opt = load(network_t=TEACHER, path={"pretrain_network_t": teacher}, train={"distill_opt": FIT})
    with refuses("path.pretrain_network_t", path, reason):
        entry.train(opt)
    assert not (tmp_path / "experiments").exists()


def test_no_permission_is_one_sentence(load, tmp_path) -> None:
    (tmp_path / "experiments").write_text("a file where a folder should be")
    with refuses(tmp_path / "experiments"):
        entry.train(load())


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_is_named(workers, load, images, tmp_path) -> None:
    import shutil

    data = tmp_path / "hr"
    shutil.copytree(images, data)
    content = (data / "002.png").read_bytes()
    (data / "002.png").write_bytes(content[: len(content) // 2])
    train = {"dataroot_gt": str(data), "num_worker_per_gpu": workers, "cache": False}
    with refuses(data / "002.png", without=["Traceback"]):
        entry.train(load(datasets={"train": train}))


def test_dry_run_tells_the_terms_and_writes_nothing(load, teacher, tmp_path) -> None:
    before = set(tmp_path.rglob("*"))
    opt = load(network_t=TEACHER, path={"pretrain_network_t": teacher}, train={"distill_opt": FIT})
    text = entry.dry_run(opt)
    assert "student MSRResNet" in text and "fit" in text and "body.0" in text
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "options", tmp_path / "options" / "tiny.yml"}


@pytest.mark.slow
def test_compiled_networks_train_to_nearly_the_same(run, placed, teacher) -> None:
    sgd = {"type": "SGD", "lr": 0.02}  # Adam would divide by gradients that are nothing but rounding
    taught = {"network_t": TEACHER, "path": {"pretrain_network_t": teacher}, **placed}
    plain, compiled = (
        run(**taught, teacher={"compile": on}, train={"distill_opt": FIT, "optim_g": sgd, "compile": on})
        for on in (False, True)
    )
    plain, compiled = (torch.load(f / "models" / "net_g_8.pth", weights_only=True)["params"] for f in (plain, compiled))
    assert list(plain) == list(compiled)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-6)


def test_exploding_offsets_are_told_before_the_loss_shows_it(run, images, tiny_edvr, num_gpu, tmp_path, capsys) -> None:
    weights = make_network(tiny_edvr).state_dict()
    weights["pcd_align.dcn_pack.l1.conv_offset.bias"].fill_(300.0)
    torch.save({"params": weights}, tmp_path / "exploded.pth")
    clips = {"type": "ClipDataset", "dataroot_gt": str(images.parent)}
    run(
        num_gpu=num_gpu,
        model_type="VideoDistillModel",
        scale=4,
        datasets={"val": None, "train": {**clips, "num_frame": 3, "gt_size": 32}},
        network_g={**dict.fromkeys(STUDENT), **tiny_edvr},
        path={"pretrain_network_g": str(tmp_path / "exploded.pth")},
        val=None,
        train={"total_iter": 3},
    )
    assert "offsets are exploding in 1 of" in capsys.readouterr().err


def test_the_best_is_chosen_where_there_is_a_ground_truth(run, images, capsys) -> None:
    """A first validation set without HR has its images restored, and decides nothing."""
    blind = {"dataroot_gt": None, "dataroot_lq": str(images), "name": "Blind"}
    scored = {"type": "ImagePairDataset", "dataroot_gt": str(images), "name": "Scored"}
    folder = run(datasets={"val": blind, "val_2": scored}, logger={"keep_best": 1}, val={"save_img": True})
    best = json.loads((folder / "models" / "best.json").read_text())
    scores = {r["iter"]: r["psnr"] for r in history(folder) if r["kind"] == "val" and r["dataset"] == "val_2"}
    assert best["dataset"] == "val_2" and best["value"] == max(scores.values())
    kept = {path.name for path in (folder / "models").glob("net_g_best*")}
    assert "net_g_best.pth" in kept and any(name.startswith("net_g_best_psnr_") for name in kept)
    assert len(list((folder / "visualization" / "val").rglob("*.png"))) == 2 * 6
    lines = [line for line in capsys.readouterr().err.splitlines() if "Blind" in line]
    assert len(lines) == 2 and all("nothing scored  [no ground truth, stored LR x2]" in line for line in lines)
    assert val_curve(history(folder)).iterations == [4, 8]
