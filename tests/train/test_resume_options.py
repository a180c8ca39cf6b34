"""A resume by other options: what they make is compared, not their text; what changed is named and takes effect."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdsr_arch.cli import main
from kdsr_arch.train import entry
from kdsr_arch.train.trainer import Trainer
from tests.helpers.images import write_textures
from tests.helpers.messages import missing, refuses
from tests.helpers.networks import make_network
from tests.train.conftest import STUDENT

TEACHER = {**STUDENT, "num_feat": 12}
FIT = {"type": "FitNetLoss", "at": "body.0", "loss_weight": 0.1}  # with an adapter of 8 to 12 channels
OUT = {"type": "L1Loss", "loss_weight": 0.5}


@pytest.fixture
def taught(tmp_path: Path) -> dict[str, Any]:
    """Options of a teacher whose file lies on the disk."""
    torch.save({"params": make_network(TEACHER).state_dict()}, tmp_path / "teacher.pth")
    return {"network_t": TEACHER, "path": {"pretrain_network_t": str(tmp_path / "teacher.pth")}}


@pytest.fixture
def half(run: Callable[..., Path]) -> Callable[..., Path]:
    """Trains to iteration 8 of 12 and returns the experiment's folder."""
    return run


def longer(changes: dict[str, Any]) -> dict[str, Any]:
    return {**changes, "train": {"total_iter": 12, **changes.get("train", {})}}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def warned(said: str) -> str:
    """The sentence about changed options in what was printed."""
    return next((line for line in said.splitlines() if "changed since the state was saved" in line), "")


# ------------------------------------------------------------------------------------------------- nothing changed


def test_a_key_that_says_the_default_may_come_and_go(half, load, capsys) -> None:
    folder = half(train={"optim_g": {"betas": [0.9, 0.999]}})
    defaults = {"num_in_ch": None, "num_out_ch": None}  # 3, as the class has it
    opt = load(**longer({"network_g": defaults, "train": {"amp": "no", "optim_g": {"eps": 1e-8}}}))
    assert entry.train(opt, True) == 0
    said = capsys.readouterr().err
    assert "iteration 8" in said
    assert re.findall(r"[\w.]+(?=: \S+ -> )", warned(said)) == ["train.total_iter"]
    assert (folder / "training_states" / "12.state").exists()


def test_a_project_that_moved_goes_on(write_options, images, tmp_path, monkeypatch, capsys) -> None:
    """With a relative path, from another folder, and with other absolute ones."""
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(images, old / "data" / "hr")
    relative = {"dataroot_gt": "data/hr"}
    path = write_options(old, datasets={"train": relative, "val": relative})
    monkeypatch.chdir(old)
    assert main(["train", "-opt", str(path)]) == 0
    os.rename(old, new)
    monkeypatch.chdir(tmp_path)
    path = new / "options" / "tiny.yml"
    absolute = f"datasets:train:dataroot_gt={new / 'data' / 'hr'}"
    assert main(["train", "-opt", str(path), "--auto_resume", "--force_yml", "train:total_iter=10", absolute]) == 0
    said = capsys.readouterr().err
    assert "iteration 8" in said and "dataroot" not in warned(said)
    assert [p.name for p in (new / "experiments").iterdir() if not p.name.startswith(".")] == ["tiny"]


def test_a_copy_of_the_data_is_no_change(half, load, images, tmp_path, capsys) -> None:
    half()
    shutil.copytree(images, tmp_path / "copy" / images.name)
    data = {"dataroot_gt": str(tmp_path / "copy" / images.name)}
    capsys.readouterr()
    assert entry.train(load(datasets={"train": data, "val": data}), True) == 0
    assert "warning" not in capsys.readouterr().err


def test_data_that_grew_or_shrank_since_are_told(half, load, images, tmp_path, capsys) -> None:
    """The order of the samples follows from their number, so that the resumed run is another from there on."""
    shutil.copytree(images, tmp_path / "own")
    own = {"datasets": {"train": {"dataroot_gt": str(tmp_path / "own")}}}
    half(**own)
    files = sorted((tmp_path / "own").iterdir())
    assert entry.train(load(**longer(own)), True) == 0
    assert "samples when" not in capsys.readouterr().err
    files[0].unlink()
    assert entry.train(load(**own, train={"total_iter": 14}), True) == 0
    assert f"had {len(files)} samples when the state was saved and have {len(files) - 1} now" in capsys.readouterr().err


def retouched(file: Path) -> None:
    """Writes other weights of the same network into the file."""
    content = torch.load(file, weights_only=True)
    torch.save({"params": {key: value + 0.1 for key, value in content["params"].items()}}, file)


def test_other_weights_of_the_teacher_are_told(half, load, taught, tmp_path, capsys) -> None:
    options = {**taught, "train": {"distill_opt": {"out": OUT}}}
    half(**options)
    assert entry.train(load(**options), True) == 0
    assert "warning" not in capsys.readouterr().err
    retouched(tmp_path / "teacher.pth")
    assert entry.train(load(**longer(options)), True) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "weights changed" in line]
    assert not missing(line, "network_t", tmp_path / "teacher.pth")
    assert entry.train(load(**longer(options)), True) == 0
    assert "warning" not in capsys.readouterr().err, "the new weights are those of the new states"


def without(state: Path, *keys: str) -> None:
    """Takes entries out of a state's fingerprint, as an earlier version did not write them."""
    saved = torch.load(state, weights_only=True)
    for key in keys:
        del saved["fingerprint"][key]
    torch.save(saved, state)


def test_how_the_teacher_runs_and_determinism_are_told_of(half, load, taught, capsys) -> None:
    options = {**taught, "train": {"distill_opt": {"out": OUT}}}
    folder, changed = half(**options), {"teacher": {"amp": "bf16"}, "deterministic": True}
    try:
        assert entry.train(load(**longer(options), **changed), True) == 0
        assert not missing(warned(capsys.readouterr().err), 'teacher.amp: "no" -> "bf16"', "deterministic")
        without(folder / "training_states" / "12.state", "~teacher", "~deterministic")
        assert entry.train(load(**longer(options), **changed), True) == 0
        assert not warned(capsys.readouterr().err), "an earlier version told nothing of them"
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_state_that_does_not_tell_of_weights_is_resumed_without_a_word(half, load, taught, tmp_path, capsys) -> None:
    options = {**taught, "train": {"distill_opt": {"out": OUT}}}
    folder = half(**options)
    without(folder / "training_states" / "8.state", "weights")
    retouched(tmp_path / "teacher.pth")
    capsys.readouterr()
    assert entry.train(load(**options), True) == 0
    assert "warning" not in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- something else is made


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ({}, {"network_g": {"num_feat": 6}}, ["network_g.num_feat: 8 -> 6", "conv_first.weight"]),
        ({}, {"train": {"optim_g": {"type": "SGD"}}}, ["train.optim_g.type", "Adam", "SGD"]),
        ({}, {"train": {"optim_g": {"amsgrad": True}}}, ["train.optim_g.amsgrad"]),
        ({}, {"model_type": "SRModel"}, ["model_type", "ImageDistillModel", "SRModel"]),
        ({}, {"train": {"distill_opt": {"fit": FIT}}}, ["train.distill_opt.fit", "fit.adapters.0.conv.weight"]),
        ({"train": {"distill_opt": {"fit": FIT}}}, {"train": {"distill_opt": {"other": FIT}}}, ["fit", "other"]),
        (
            {"train": {"distill_opt": {"out": OUT}}},
            {"network_t": {**TEACHER, "num_feat": 10}},
            ["the teacher", "MSRResNet"],
        ),
        ({"model_type": "SRModel"}, {"network_g": {"num_block": 2}}, ["network_g.num_block: 1 -> 2", "net_g"]),
    ],
)
def test_a_state_of_something_else_stops_and_leaves_all_as_it_was(before, after, named, half, load, taught, tmp_path):
    base = {} if "SRModel" in (before.get("model_type"), after.get("model_type")) else taught
    folder = half(**{**base, **before})
    there = content(folder)
    if "network_t" in after:
        torch.save({"params": make_network(after["network_t"]).state_dict()}, tmp_path / "teacher.pth")
    with refuses("8.state", *named, "--auto_resume", "path.pretrain_network_g"):
        entry.train(load(**longer({**base, **before, **after})), True)
    assert content(folder) == there and [p.name for p in folder.parent.glob("tiny*")] == ["tiny"]


def test_states_that_are_all_damaged_stop_the_resume(half, load, tmp_path) -> None:
    folder = half()
    for state in (folder / "training_states").iterdir():
        state.write_bytes(b"damaged")
    there = content(folder)
    with refuses(folder / "training_states", "8.state", "--auto_resume", folder):
        entry.train(load(), True)
    assert content(folder) == there and [p.name for p in folder.parent.glob("tiny*")] == ["tiny"]


def test_a_named_state_of_something_else_is_refused(half, load, tmp_path) -> None:
    state = half() / "training_states" / "4.state"
    options = {"network_g": {"num_feat": 6}, "path": {"resume_state": str(state)}}
    with refuses(state, "network_g.num_feat: 8 -> 6", "path.resume_state", "path.pretrain_network_g"):
        entry.train(load(tmp_path / "new", **options))
    assert not (tmp_path / "new" / "experiments").exists()


# ------------------------------------------------------------------------------------------------ changes take effect


def rates(folder: Path) -> dict[int, float]:
    records = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    return {record["iter"]: record["lr"][0] for record in records if record["kind"] == "train"}


@pytest.mark.parametrize(
    ("changes", "named", "expected"),
    [
        ({"optim_g": {"lr": 4e-3}}, "train.optim_g.lr: 0.001 -> 0.004", 2e-3),
        ({"scheduler": {"gamma": 0.1}}, "train.scheduler.gamma: 0.5 -> 0.1", 1e-4),
        ({"scheduler": {"milestones": [11]}}, "train.scheduler.milestones: [5] -> [11]", 1e-3),
        ({"scheduler": None}, "train.scheduler", 1e-3),
        ({"warmup_iter": 20}, "train.warmup_iter: -1 -> 20", 1e-3 * 9 / 20),
    ],
)
@pytest.mark.parametrize("model", ["ImageDistillModel", "SRModel"])
def test_the_rate_is_that_of_a_run_that_always_had_these_options(
    model, changes, named, expected, half, load, capsys
) -> None:
    folder = half(model_type=model)
    assert entry.train(load(**longer({"model_type": model, "train": changes})), True) == 0
    assert rates(folder)[9] == pytest.approx(expected, rel=1e-6)
    assert named in warned(capsys.readouterr().err)


def test_the_optimizers_options_and_the_losses_take_effect(half, load, taught, monkeypatch, capsys) -> None:
    half(**taught, train={"distill_opt": {"out": OUT}})
    groups: list[dict[str, Any]] = []
    original = Trainer.step

    def step(self: Trainer, iteration: int) -> None:
        original(self, iteration)
        groups.append({**self.model.optimizer.param_groups[0], "steps": self.model.optimizer.state_dict()["state"][0]})

    monkeypatch.setattr(Trainer, "step", step)
    optimizer = {"betas": [0.8, 0.9], "weight_decay": 0.25}
    terms = {"out": {**OUT, "loss_weight": 0.25}, "new": OUT}
    changed = {**taught, "train": {"total_iter": 9, "optim_g": optimizer, "distill_opt": terms}}
    assert entry.train(load(**changed), True) == 0
    assert (groups[0]["betas"], groups[0]["weight_decay"]) == ((0.8, 0.9), 0.25)
    assert groups[0]["steps"]["step"] == 9, "the moments go on"
    said = warned(capsys.readouterr().err)
    for text in (
        "betas",
        "train.optim_g.weight_decay: absent -> 0.25",
        "out.loss_weight: 0.5 -> 0.25",
        "distill_opt.new",
    ):
        assert text in said, said


# ------------------------------------------------------------------------------------------------------ other scores


def best(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "models" / "best.json").read_text())


STILL = {"optim_g": {"lr": 0.0}}  # no validation is better than the first


@pytest.mark.parametrize(
    "changes",
    [
        {"val": {"metrics": {"psnr": {"test_y_channel": False}}}},
        {"datasets": {"val": {"dataroot_gt": "other"}}},
        {"datasets": {"val": {"dataroot_gt": "other/hr"}}},
        {"datasets": {"val": {"degradation": "BD"}}},
    ],
)
def test_the_best_begins_anew_where_the_score_is_another_one(changes, half, load, images, tmp_path, capsys) -> None:
    """Although the old value is the better one; patience counts from the first validation by the new options."""
    shutil.copytree(images, tmp_path / "other")
    write_textures(tmp_path / "other" / "hr", 6, 32, 32, digits=4)  # ends as the other folder does
    folder = half(train=STILL, logger={"keep_best": 1})
    state = torch.load(folder / "training_states" / "8.state", weights_only=True)
    state["best"]["val"]["psnr"]["value"] = state["ranking"]["psnr"][0]["value"] = 99.0
    torch.save(state, folder / "training_states" / "8.state")
    if "dataroot_gt" in changes.get("datasets", {}).get("val", {}):
        changes = {"datasets": {"val": {"dataroot_gt": str(tmp_path / changes["datasets"]["val"]["dataroot_gt"])}}}
    (key,) = [".".join(keys) for keys in _leaves(changes)]
    capsys.readouterr()
    options = {**changes, "train": {**STILL, "patience": 2, "total_iter": 40}, "logger": {"keep_best": 1}}
    assert entry.train(load(**options), True) == 0
    said = capsys.readouterr().err
    assert not missing(warned(said), key)
    (line,) = [line for line in said.splitlines() if "begin anew" in line]
    assert not missing(line, "psnr on datasets.val")
    assert best(folder)["iter"] == 8 and "Finished 16 iterations" in said
    assert [path.name for path in folder.glob("models/net_g_best_psnr_*")] == ["net_g_best_psnr_8.pth"]


def _leaves(tree: Any) -> list[list[str]]:
    if not isinstance(tree, dict):
        return [[]]
    return [[key, *rest] for key, below in tree.items() for rest in _leaves(below)]


def test_another_metric_or_data_set_leaves_the_best_of_the_others(half, load, images, capsys) -> None:
    val_2 = {"type": "ImagePairDataset", "dataroot_gt": str(images), "degradation": "BD", "num_worker_per_gpu": 2}
    folder = half(train=STILL, datasets={"val_2": val_2})
    before = best(folder)
    metrics = {"psnr_rgb": {"type": "calculate_psnr", "crop_border": 2}, "psnr": {"input_order": "HWC"}}
    changed = {"val_2": {**val_2, "degradation": "BI"}, "val": {"num_worker_per_gpu": 1, "cache": True}}
    options = longer({"train": STILL, "val": {"pbar": True, "metrics": metrics}, "datasets": changed})
    capsys.readouterr()
    assert entry.train(load(**options), True) == 0
    said = capsys.readouterr().err
    assert not missing(warned(said), "val.metrics.psnr_rgb", "datasets.val_2.degradation")
    assert re.findall(r"val\S*(?=: \S+ -> )", warned(said)) == ["val.metrics.psnr_rgb", "val_2.degradation"]
    (line,) = [line for line in said.splitlines() if "begin anew" in line]
    assert line.endswith(": psnr on datasets.val_2")
    assert best(folder) == before


def test_a_state_that_does_not_tell_of_scores_is_resumed_without_a_word(half, load, capsys) -> None:
    folder = half(train=STILL)
    without(folder / "training_states" / "8.state", "~val", "~datasets.val")
    capsys.readouterr()
    changed = {"val": {"metrics": {"psnr": {"crop_border": 4}}}, "datasets": {"val": {"degradation": "BD"}}}
    assert entry.train(load(train=STILL, **changed), True) == 0
    assert "warning" not in capsys.readouterr().err
    assert best(folder)["iter"] == 4
