"""Real trainings small enough to be killed a hundred times: their data, teachers and option files.

Three kinds, each written into a folder of its own as `options/tiny.yml`:

    image   MSRResNet taught by one with other channels: a FitNet adapter, FAKD, a balanced output term, clipping, EMA
    std     VESPCN taught by a slim EDVR: spatial maps, the ConvLSTM of the temporal term trained along, EMA
    staged  three stages with other terms and frozen modules, warm-up, a gradient of two batches

Logging, saving and validating have periods without a common factor, so that an interruption meets every combination.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from kdsr_arch.registry import build

NET = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_block": 1, "upscale": 2}
STUDENT, TEACHER = {**NET, "num_feat": 8}, {**NET, "num_feat": 12}
VESPCN = {"type": "VESPCN", "num_feat": 8, "num_hr_feat": 8, "num_flow_feat": 4, "num_block": 1}
EDVR = {
    "type": "EDVRSlim",
    "num_feat": 8,
    "num_hr_feat": 8,
    "num_frame": 3,
    "deformable_groups": 2,
    "num_extract_block": 1,
    "num_reconstruct_block": 1,
}
FIT = {"type": "FitNetLoss", "at": "body.0", "loss_weight": 0.1}
FAKD = {"type": "FAKDLoss", "affinity": "spatial", "at": "body.0", "loss_weight": 0.1}
OUT = {"type": "L1Loss", "loss_weight": {"balance": 0.5, "measurements": 2}}
PSNR = {"psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}}
KINDS = ("image", "std", "staged")


def smooth_noise(rng: np.random.Generator, side: int) -> np.ndarray:
    """Make an image of random blobs, uint8 (side, side, 3)."""
    coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def make_data(folder: Path) -> None:
    """Write six images, two clips of four frames, and the weights of both teachers."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for index in range(6):
        cv2.imwrite(str(folder / "images" / f"{index}.png"), smooth_noise(rng, 32))
    for clip in ("a", "b"):
        (folder / "clips" / clip).mkdir(parents=True)
        still = smooth_noise(rng, 48)
        for index in range(4):
            cv2.imwrite(str(folder / "clips" / clip / f"{index:08d}.png"), np.roll(still, 3 * index, axis=1))
    torch.manual_seed(1)
    for name, network in (("image", TEACHER), ("std", EDVR)):
        torch.save({"params": build("network", network, "network_t").state_dict()}, folder / f"{name}_teacher.pth")


def _image_options(data: Path) -> dict[str, Any]:
    images = {"type": "ImagePairDataset", "dataroot_gt": str(data / "images"), "degradation": "BI"}
    return {
        "model_type": "ImageDistillModel",
        "scale": 2,
        "datasets": {"train": {**images, "gt_size": 16, "batch_size_per_gpu": 2}, "val": images},
        "network_g": STUDENT,
        "network_t": TEACHER,
        "path": {"pretrain_network_t": str(data / "image_teacher.pth")},
        "train": {"grad_clip": 0.5, "distill_opt": {"fit": FIT, "affinity": FAKD, "out": OUT}},
    }


def _std_options(data: Path) -> dict[str, Any]:
    clips = {"type": "ClipDataset", "dataroot_gt": str(data / "clips"), "degradation": "BI"}
    train = {"gt_size": 16, "clip_length": 2, "num_frame": 3, "random_reverse": True, "batch_size_per_gpu": 1}
    return {
        "model_type": "VideoDistillModel",
        "scale": 4,
        "datasets": {"train": {**clips, **train}, "val": {**clips, "clips": ["a"], "frames": [0, 3]}},
        "network_g": VESPCN,
        "network_t": EDVR,
        "path": {"pretrain_network_t": str(data / "std_teacher.pth")},
        "train": {"distill_opt": {
            "spatial": {
                "type": "SpatialAttentionLoss", "at": "f_sr", "loss_weight": {"balance": 0.1, "measurements": 2},
            },
            "temporal": {"type": "TemporalMemoryLoss", "at": "f_sr", "lstm": "trained", "loss_weight": 0.1},
            "output": {"type": "L1Loss", "loss_weight": {"schedule": [[0, 0.0], [50, 1.0]]}},
        }},
    }  # fmt: skip


def _staged_options(data: Path, iterations: int) -> dict[str, Any]:
    options, third = _image_options(data), iterations // 3
    options["datasets"]["train"]["batch_size_per_gpu"] = 1
    options["train"] |= {"accumulation": 2, "warmup_iter": iterations // 4, "stages": [
        {"iters": third, "terms": ["fit"], "freeze": ["conv_last"]},
        {"iters": third, "terms": ["pixel", "affinity"], "freeze": ["conv_first", "body.0"]},
        {"iters": iterations - 2 * third},
    ]}  # fmt: skip
    return options


def tiny_options(kind: str, data: Path, iterations: int, workers: int = 1) -> dict[str, Any]:
    """Return the options of one kind of training, with the data that `make_data` wrote into `data`."""
    options = {"image": _image_options, "std": _std_options}[kind](data) if kind != "staged" else _staged_options(
        data, iterations)  # fmt: skip
    options |= {"name": "tiny", "num_gpu": 0, "manual_seed": 3}
    options["datasets"]["train"] |= {"num_worker_per_gpu": workers, "use_hflip": True, "use_rot": True}
    options["datasets"]["val"] = {**options["datasets"]["val"], "name": "Val", "num_worker_per_gpu": 0}
    options["train"] |= {
        "total_iter": iterations,
        "ema_decay": 0.9,
        "optim_g": {"type": "Adam", "lr": 1e-3},
        "scheduler": {"type": "MultiStepLR", "milestones": [iterations // 2], "gamma": 0.5},
        "pixel_opt": {"type": "CharbonnierLoss"},
        "ratio_freq": 5,
    }
    options["val"] = {"val_freq": 7, "pbar": False, "metrics": PSNR}
    options["logger"] = {"print_freq": 2, "save_checkpoint_freq": 3, "keep_last": 3, "keep_best": 2}
    return options


def write_options(root: Path, options: dict[str, Any]) -> Path:
    """Write `options` as `root`/options/tiny.yml; its outputs then go to `root`/experiments/tiny."""
    path = root / "options" / "tiny.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
    return path
