"""Space-time distillation through the two command lines, on real frames: train, kill, resume, test."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
import yaml

from tests.helpers import ROOT

STUDENT = {"type": "VESPCN", "num_feat": 8, "num_hr_feat": 8, "num_flow_feat": 4, "num_block": 1, "base": "bicubic"}
METRICS = {"psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": True}}


CLIPS = {"name": "clips", "type": "ClipDataset", "dataroot_gt": "clips.lmdb", "degradation": "BI"}
COMMON = {"model_type": "VideoDistillModel", "scale": 4, "num_gpu": 0, "network_g": STUDENT}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_edvr: dict[str, Any]) -> Path:
    """A project folder: a real clip, teacher weights, option files."""
    pytest.importorskip("av")
    from kdsr_arch.registry import build

    root = tmp_path_factory.mktemp("project")
    _write_clip(root)
    torch.manual_seed(1)
    torch.save({"params": build("network", tiny_edvr, "network_t").state_dict()}, root / "teacher.pth")
    training = _training() | {"network_t": tiny_edvr}
    test = {
        **COMMON,
        "datasets": {"test_1": CLIPS},
        "val": {"metrics": METRICS, "save_img": True},
        "path": {"pretrain_network_g": "experiments/std/models/net_g_12.pth", "param_key_g": "params_ema"},
    }
    (root / "options").mkdir()
    for file, name, options in (("std", "std", training), ("killed", "killed", training), ("test", "tested", test)):
        (root / "options" / f"{file}.yml").write_text(yaml.safe_dump({**options, "name": name}))
    return root


def _write_clip(root: Path) -> None:
    from kdsr_arch.data.prepare.decode_video import decode_video
    from kdsr_arch.data.prepare.demo_data import video_files
    from kdsr_arch.data.prepare.plans import prepare_video_clips

    folder = root / "videos" / "carphone"
    folder.mkdir(parents=True)
    for number, frame in enumerate(itertools.islice(decode_video(video_files()["carphone_pristine"]), 10)):
        cv2.imwrite(str(folder / f"{number:08d}.png"), frame[..., ::-1])
    prepare_video_clips(root / "videos", root / "clips.lmdb", halved=True, multiple=8)


def _training() -> dict[str, Any]:
    """Options of a training with every term of space-time distillation, without its name and its teacher."""
    windows = {"gt_size": 32, "clip_length": 3, "num_frame": 3, "random_reverse": True}
    loader = {"use_hflip": True, "use_rot": True, "batch_size_per_gpu": 1, "num_worker_per_gpu": 1}
    ramped = {"balance": 0.1, "schedule": [[0, 0.0], [8, 1.0]]}
    lstm = {"lstm": "pretrained", "pretrain_iters": 5}
    terms = {
        "motion": {"type": "MotionCompensationLoss", "student": "motion", "loss_weight": 0.01},
        "spatial": {"type": "SpatialAttentionLoss", "at": "f_sr", "loss_weight": {"balance": 0.1, "measurements": 2}},
        "temporal": {"type": "TemporalMemoryLoss", "at": "f_sr", **lstm, "loss_weight": ramped},
        "output": {"type": "L1Loss", "loss_weight": 1.0},
    }
    return {
        **COMMON,
        "manual_seed": 3,
        "datasets": {"train": {**CLIPS, **windows, **loader}, "val": CLIPS},
        "path": {"pretrain_network_t": "teacher.pth"},
        "train": {
            "total_iter": 12,
            "ema_decay": 0.9,
            "ratio_freq": 3,
            "distill_opt": terms,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "pixel_opt": {"type": "CharbonnierLoss"},
            "scheduler": {"type": "CosineAnnealingRestartLR", "periods": [12], "eta_min": 1e-5},
        },
        "val": {"val_freq": 6, "metrics": METRICS},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2},
    }


def _command(launcher: str, *arguments: str) -> list[str]:
    """Outputs go to the option file's project instead of the folder above the launcher."""
    root = Path(arguments[1]).parents[1]
    return [sys.executable, str(ROOT / "basicsr" / launcher), *arguments, "--root", str(root)]


def _run(launcher: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(_command(launcher, *arguments), cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def unbroken(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment folder of a training that nothing disturbed, started from a foreign folder."""
    _run("train.py", "-opt", str(project / "options" / "std.yml"), cwd=tmp_path_factory.mktemp("elsewhere"))
    return project / "experiments" / "std"


def _weights(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    return torch.load(path, weights_only=True)


@pytest.mark.slow
def test_student_files_hold_the_student_only(unbroken: Path) -> None:
    from kdsr_arch.registry import build

    saved = _weights(unbroken / "models" / "net_g_12.pth")
    assert set(saved) == {"params", "params_ema"}
    for state in saved.values():
        build("network", STUDENT, "network_g").load_state_dict(state, strict=True)


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_unbroken_one(unbroken: Path, project: Path) -> None:
    options, folder = str(project / "options" / "killed.yml"), project / "experiments" / "killed"
    process = subprocess.Popen(_command("train.py", "-opt", options), cwd=project, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "training_states" / "4.state").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _run("train.py", "-opt", options, "--auto_resume", cwd=project)

    for name in ("net_g_12.pth", "net_g_latest.pth"):
        ours, theirs = _weights(folder / "models" / name), _weights(unbroken / "models" / name)
        for part in theirs:
            for key, value in theirs[part].items():
                assert torch.equal(ours[part][key], value), f"{name}: {part}.{key}"
    assert (folder / "history.jsonl").read_text() == (unbroken / "history.jsonl").read_text()


@pytest.mark.slow
def test_the_test_command_repeats_the_last_validation(unbroken: Path, project: Path) -> None:
    _run("test.py", "-opt", str(project / "options" / "test.yml"), cwd=project)
    results = project / "results" / "tested"
    assert list(results.rglob("*.png")) and list(results.glob("*.csv")) and list(results.glob("*.md"))
    history = [json.loads(line) for line in (unbroken / "history.jsonl").read_text().splitlines()]
    validated = [record for record in history if record["kind"] == "val"][-1]["psnr"]
    tested = json.loads((results / "results.json").read_text())["results"][0]["mean"]["psnr"]
    assert tested == pytest.approx(validated, abs=1e-6)


@pytest.mark.slow
def test_a_mistake_is_told_in_one_sentence_and_leaves_nothing(project: Path) -> None:
    command = _command(
        "train.py",
        "-opt",
        str(project / "options" / "std.yml"),
        "--force_yml",
        "name=wrong",
        "train:distill_opt:spatial:at=upsampelr",
    )
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "upsampelr" in done.stderr and "upsampler" in done.stderr and "Traceback" not in done.stderr
    assert not (project / "experiments" / "wrong").exists()
