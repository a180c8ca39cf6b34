"""`kdsr new` writes option files that pass `kdsr check` and train."""

from __future__ import annotations

import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from kdsr_arch.cli import main
from tests.helpers.messages import missing
from tests.helpers.options import OPTIMIZER
from tests.helpers.plugins import forgotten


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some HR photographs, and a clip of seven frames."""
    for name in ("hr/0", "hr/1", *(f"clips/a/{frame}" for frame in range(7))):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (144, 144, 3), dtype=np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "image --data hr",
        "image --data hr --val hr --scale 2 --student FSRCNN",
        "image --data hr --teacher none --scale 3 --student IMDN",
        "image --data hr --teacher PlainSR_x4_20k --student '{type: MSRResNet, num_feat: 8, num_block: 1}'",
        "video --data clips --val clips",
        "video --data clips --student FastDVDnet",
        "video --data clips --teacher none --student BasicVSR",
    ],
)
def test_what_is_written_passes_the_check(here: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed = shlex.split(words)
    assert main(["new", *listed, "-o", "mine.yml"]) == 0
    assert main(["check", "-opt", "mine.yml"]) == 0
    said = capsys.readouterr().out
    assert "the options are sound" in said and ("no distillation" in said) == ("none" in listed)
    options = yaml.safe_load((here / "mine.yml").read_text())
    assert options["name"] == "mine" and ("val" in options) == ("--val" in listed)


def test_what_is_to_be_typed_next_can_be_pasted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "image", "--data", "hr", "-o", "my file.yml"]) == 0
    assert shlex.split(capsys.readouterr().out)[-1] == "my file.yml"


def test_what_is_written_trains(here: Path) -> None:
    assert main(["new", "image", "-o", "mine.yml", "--data", "hr", "--iterations", "2"]) == 0
    small = ["datasets:train:batch_size_per_gpu=1", "datasets:train:num_worker_per_gpu=0", "num_gpu=0"]
    assert main(["train", "-opt", "mine.yml", "--force_yml", *small]) == 0
    assert (here / "experiments" / "mine" / "models" / "net_g_latest.pth").is_file()


def test_a_student_from_outside_is_imported_by_the_file(here: Path) -> None:
    (here / "options").mkdir()
    (here / "nets.py").write_text("from kdsr_arch.archs.ecbsr_arch import PlainSR\n"
                                  "from kdsr_arch.registry import ARCH_REGISTRY\n\n\n"
                                  "@ARCH_REGISTRY.register()\nclass NewFromOutside(PlainSR):\n    pass\n")  # fmt: skip
    words = ["new", "image", "--data", "hr", "--student", "NewFromOutside", "--import", "nets.py"]
    with forgotten():
        assert main([*words, "-o", "options/mine.yml"]) == 0
    assert yaml.safe_load((here / "options" / "mine.yml").read_text())["imports"] == ["../nets.py"]
    with forgotten():
        assert main(["check", "-opt", "options/mine.yml", "--no-dry-run"]) == 0


def test_the_shipped_data_are_named(here: Path) -> None:
    for task, prepare in (("image", "images"), ("video", "demo")):
        assert main(["new", task, "-o", f"{task}.yml"]) == 0
        options = yaml.safe_load((here / f"{task}.yml").read_text())
        assert {part["prepare"] for part in options["datasets"].values()} == {prepare}
        assert main(["check", "-opt", f"{task}.yml", "--no-dry-run"]) == 0


def test_a_teacher_of_ones_own(here: Path) -> None:
    options = {
        "name": "own", "model_type": "ImageDistillModel", "scale": 4, "num_gpu": 0,
        "datasets": {"train": {
            "type": "ImagePairDataset", "dataroot_gt": "hr", "degradation": "BI", "gt_size": 16,
            "batch_size_per_gpu": 1, "num_worker_per_gpu": 0,
        }},
        "network_g": {"type": "MSRResNet", "num_feat": 4, "num_block": 1},
        "train": {"total_iter": 1, "optim_g": OPTIMIZER, "pixel_opt": {"type": "L1Loss"}},
    }  # fmt: skip
    (here / "own.yml").write_text(yaml.safe_dump(options))
    assert main(["train", "-opt", "own.yml"]) == 0
    weights = "experiments/own/models/net_g_latest.pth"
    assert main(["new", "image", "-o", "mine.yml", "--data", "hr", "--teacher", weights]) == 0
    written = yaml.safe_load((here / "mine.yml").read_text())
    assert written["network_t"] == options["network_g"]
    assert Path(written["path"]["pretrain_network_t"]) == here / weights
    torch.save({"params": {}}, here / "none.pth")
    assert main(["new", "image", "-o", "b.yml", "--teacher", "none.pth"]) == 2 and not (here / "b.yml").exists()


def test_nothing_is_written_that_cannot_be(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "there.yml").write_text("kept")
    for words, named in (
        ("image -o there.yml", "there.yml"),
        ("image -o file.txt", "file.txt"),
        ("image -o there.yml/file.yml", "there.yml"),
        ("image -o f.yml --scale 3", "--scale"),
        ("image -o f.yml --data nowhere", "nowhere"),
        ("image -o f.yml --data hr/0.png", "hr/0.png"),
        ("image -o f.yml --student {type:FSRCNN", "--student"),
        ("image -o f.yml --student FSRCN", "FSRCN"),
        ("image -o f.yml --student EDVR", "video"),
        ("image -o f.yml --scale 2 --teacher PlainSR_x4_20k", "--scale"),
        ("image -o f.yml --iterations 0", "train.total_iter"),
    ):
        assert main(["new", *words.split()]) == 2
        assert not missing(capsys.readouterr().err, named), words
    assert sorted(path.name for path in here.iterdir()) == ["clips", "hr", "there.yml"]
    assert (here / "there.yml").read_text() == "kept"
