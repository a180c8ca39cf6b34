"""Tiny real experiments: random PNGs on the disk, networks of a few hundred weights, options read by the parser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdsr_arch.options import Options, load_options
from kdsr_arch.train import entry
from tests.helpers.images import write_textures

STUDENT = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "upscale": 2}


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` put over it, mapping by mapping; None removes a key."""
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def base_options(data: Path) -> dict[str, Any]:
    """A plain training of 8 iterations, saved every 4, validated at the end."""
    images = {"type": "ImagePairDataset", "dataroot_gt": str(data), "degradation": "BI"}
    return {
        "name": "tiny",
        "model_type": "ImageDistillModel",
        "scale": 2,
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {
            "train": {**images, "gt_size": 16, "batch_size_per_gpu": 4, "num_worker_per_gpu": 0, "use_hflip": True},
            "val": {**images, "name": "Val", "num_worker_per_gpu": 0},
        },
        "network_g": dict(STUDENT),
        "train": {
            "total_iter": 8,
            "ema_decay": 0.9,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "scheduler": {"type": "MultiStepLR", "milestones": [5], "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss"},
            "ratio_freq": 3,
        },
        "val": {
            "val_freq": 4,
            "pbar": False,
            "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}},
        },
        "logger": {"print_freq": 3, "save_checkpoint_freq": 4},
    }


def history(folder: Path) -> list[dict[str, Any]]:
    """What an experiment wrote into its history."""
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture
def placed(num_gpu: int) -> Iterator[dict[str, Any]]:
    """Options that take a training to the device of --device, and have it give the same bits there every time."""
    yield {"num_gpu": num_gpu, "deterministic": True}
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six random 32x32 PNGs."""
    return write_textures(tmp_path_factory.mktemp("data") / "hr", 6, 32, 32, digits=3)


@pytest.fixture
def write_options(images: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny option file, changed by the given nested mappings; returns its path below `root`/options."""

    def write(root: Path | None = None, **changes: Any) -> Path:
        folder = (root or tmp_path) / "options"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tiny.yml"
        path.write_text(yaml.safe_dump(merge(base_options(images), changes), sort_keys=False))
        return path

    return write


@pytest.fixture
def load(write_options: Callable[..., Path]) -> Callable[..., Options]:
    """The tiny options, changed and validated; outputs go to `root`/experiments/tiny."""

    def read(root: Path | None = None, **changes: Any) -> Options:
        return load_options(write_options(root, **changes), is_train=True)

    return read


@pytest.fixture
def run(load: Callable[..., Options]) -> Callable[..., Path]:
    """Trains the tiny options, changed; returns the experiment folder."""

    def train(auto_resume: bool = False, root: Path | None = None, **changes: Any) -> Path:
        opt = load(root, **changes)
        assert entry.train(opt, auto_resume) == 0
        return opt.folder

    return train
