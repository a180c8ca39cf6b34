"""Validation as far as it comes before the training: the first image is tried, and the teacher is scored."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.archs.srresnet_arch import MSRResNet
from torch import Tensor, nn

from kdsr_arch.errors import ProgramFault
from kdsr_arch.evaluate.evaluator import EvalResult
from kdsr_arch.options.schema import MetricOptions
from kdsr_arch.registry import ARCH_REGISTRY
from kdsr_arch.train import entry
from kdsr_arch.train.validation import Validator, _beginning
from tests.helpers.images import write_textures
from tests.helpers.messages import refuses
from tests.helpers.networks import Window, make_network
from tests.train.conftest import STUDENT


class CropsOnly(MSRResNet):
    """Fails on inputs of another size than a training sample's, as networks of windows do."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 8:
            raise RuntimeError("the window does not divide the image")
        return super().forward(x)


if CropsOnly.__name__ not in ARCH_REGISTRY:
    ARCH_REGISTRY.register(CropsOnly)


@pytest.mark.parametrize("model", ["ImageDistillModel", "SRModel"])
@pytest.mark.parametrize("start", [entry.dry_run, entry.train])
def test_a_network_that_fails_on_whole_images_is_told_before_the_training(start, model, load, tmp_path) -> None:
    opt = load(model_type=model, network_g={"type": "CropsOnly"})
    with refuses("datasets.val", "CropsOnly", "3x16x16", "the window does not divide", kind=ProgramFault):
        start(opt)
    assert not (tmp_path / "experiments").exists()


def test_the_first_look_at_a_clip_is_short() -> None:
    clip = {"lq": torch.zeros(9, 3, 4, 4), "gt": torch.zeros(9, 3, 8, 8), "frames": list("abcdefghi"), "key": "clip"}
    cut = _beginning(clip, 4)
    assert [len(cut[key]) for key in ("lq", "gt", "frames")] == [4, 4, 4] and cut["key"] == "clip"
    assert _beginning(clip, 9) is clip and len(clip["lq"]) == 9
    image = {"lq": torch.zeros(3, 40, 4)}
    assert _beginning(image, 2) is image


def test_the_shortest_clip_is_the_one_that_is_tried(load, tmp_path) -> None:
    for name, frames in (("a", 6), ("b", 1), ("c", 5)):
        write_textures(tmp_path / "clips" / name, frames, 32, 32, digits=8)
    clips = {"type": "ClipDataset", "dataroot_gt": str(tmp_path / "clips"), "degradation": "BI"}
    Validator(load(datasets={"val": clips}), torch.device("cpu")).try_one(Window(4, 3))
    validator = Validator(load(datasets={"val": {**clips, "padding": "reflection"}}), torch.device("cpu"))
    with refuses("datasets.val", 1, 3, "'reflection'"):
        validator.try_one(Window(4, 3))


def test_the_metric_that_decides_must_be_measured_where_it_decides(load, tmp_path) -> None:
    write_textures(tmp_path / "clips" / "a", 5, 32, 32, digits=8)
    clips = {"type": "ClipDataset", "dataroot_gt": str(tmp_path / "clips"), "degradation": "BI"}
    psnr, warp = {"type": "calculate_psnr"}, {"type": "calculate_warping_error", "flow": "exact"}
    for metrics in ({"psnr": psnr, "warp": warp}, {"warp": warp, "psnr": psnr}):
        opt = load(datasets={"val": clips})
        opt.val.metrics = {name: MetricOptions.model_validate(metric) for name, metric in metrics.items()}
        validator = Validator(opt, torch.device("cpu"))
        with nullcontext() if [*metrics][0] == "psnr" else refuses("datasets.val: val.metrics.warp", "decides"):
            validator.try_one(Window(4, 3))


def test_less_is_better_where_the_metric_says_so(load, tmp_path) -> None:
    """Without `better` in the options."""
    opt, metrics = load(), {"tof": "calculate_tof", "psnr": "calculate_psnr"}
    opt.val.metrics = {name: MetricOptions(type=kind) for name, kind in metrics.items()}
    validator = Validator(opt, torch.device("cpu"))
    for iteration, (tof, psnr) in enumerate([(0.30, 20.0), (0.33, 21.0), (0.31, 19.0)], 1):
        result = EvalResult({"tof": tof, "psnr": psnr}, [], "Y", {}, "val", "images", [])
        validator.judge({"val": result}, iteration)
    assert validator.best_iteration() == 1
    assert {name: record["iter"] for name, record in validator.best.records["val"].items()} == {"tof": 1, "psnr": 2}


def taught(tmp_path: Path, **network: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A teacher, and options for a training under it."""
    spec = {**STUDENT, "num_feat": 12, **network}
    teacher = make_network(spec)
    torch.save({"params": teacher.state_dict()}, tmp_path / "teacher.pth")
    train = {"distill_opt": {"out": {"type": "L1Loss"}}}
    return teacher, {"network_t": spec, "path": {"pretrain_network_t": str(tmp_path / "teacher.pth")}, "train": train}


def test_the_teacher_s_own_score_is_told_once_before_the_training(load, tmp_path, capsys) -> None:
    teacher, options = taught(tmp_path)
    opt = load(**options)
    expected = Validator(opt, torch.device("cpu")).run(teacher, 0, ["val"])["val"].mean["psnr"]
    assert entry.train(opt) == 0
    said = capsys.readouterr().err
    assert f"The teacher on Val: psnr {expected:.4f}  [" in said
    assert said.index("The teacher on Val") < said.index("Validation at 4")
    assert entry.train(load(**{**options, "train": {**options["train"], "total_iter": 9}}), True) == 0
    assert entry.train(load(**options, val={"score_teacher": False})) == 0
    assert "The teacher" not in capsys.readouterr().err


def test_a_teacher_that_cannot_be_scored_stops_nothing(load, tmp_path, capsys) -> None:
    _, options = taught(tmp_path, type="CropsOnly")
    assert entry.train(load(**options)) == 0
    assert "The teacher cannot be scored on Val: the window does not divide" in capsys.readouterr().err


def test_a_training_without_progress_stops_after_its_patience_and_a_resume_stops_at_once(load, capsys) -> None:
    """At a learning rate of nothing no validation is better than the first."""
    changes = {"train": {"patience": 2, "total_iter": 12, "optim_g": {"lr": 0.0}}, "val": {"val_freq": 1}}
    opt = load(**changes)
    for _ in range(2):
        entry.train(opt, auto_resume=True)
        states = sorted(int(path.stem) for path in (opt.folder / "training_states").iterdir())
        assert states[-1] == 3  # the best is that of the first, and two more were no better
        assert (opt.folder / "models" / "net_g_latest.pth").is_file()
    said = capsys.readouterr().err
    assert "patience" in said and said.count("Finished 3 iterations") == 2
    assert json.loads((opt.folder / "models" / "best.json").read_text())["iter"] == 1
