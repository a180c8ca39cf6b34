"""Data sets of option files over small real data: wrong values as the dry run of `kdsr check` meets them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from kdsr_arch.data.loader import open_dataset
from kdsr_arch.errors import UserError
from kdsr_arch.options.load import complete
from kdsr_arch.options.yaml_reader import Document
from tests.fuzz.material import encoded, texture, write_store
from tests.fuzz.mutate import READABLE, json_mutator
from tests.fuzz.target import Target

_WORDS = ("type", "dataroot_gt", "dataroot_lq", "clips", "frames", "lists/a.txt", "images", "clips.lmdb", "ClipDataset",
          "ImagePairDataset", "MixDataset", "BD", "none", "gt_size", "scale", "num_frame", "cache", "cache_gb",
          "weights",
          "datasets", "exclude", "000", "phase", "meta_info_file", "filename_tmpl", "{}x2", "color", "y", "prepare",
          "demo",
          "interval_list", "clip_length", "teacher_cache", "padding",
          "center_frame_only")  # fmt: skip


@cache
def seeds() -> list[bytes]:
    """Return the three kinds of data sets of the project."""
    images = {"type": "ImagePairDataset", "dataroot_gt": "images", "gt_size": 8, "degradation": "BI", "use_hflip": True}
    clips = {
        "type": "ClipDataset",
        "dataroot_gt": "clips.lmdb",
        "gt_size": 8,
        "num_frame": 3,
        "clip_length": 1,
        "cache": "auto",
        "cache_gb": 0.01,
        "interval_list": [1],
        "frames": [0, 4],
        "clips": ["000"],
    }
    mixed = {"type": "MixDataset", "datasets": [images, {**images, "dataroot_gt": "clips"}], "weights": [1, 2]}
    more = {
        **clips,
        "meta_info_file": "lists/a.txt",
        "degradation": "BD",
        "random_reverse": True,
        "use_rot": True,
        "color": "y",
    }
    lower = {**images, "dataroot_lq": "images", "filename_tmpl": "{}", "dataset_enlarge_ratio": 2}
    return [json.dumps(dataset).encode() for dataset in (images, clips, mixed, more, lower)]


@cache
def _data(folder: Path) -> None:
    """Write the data, once a folder."""
    value, line = encoded(".png", texture(24, 24)), "(24,24,3) 1\n"
    for name in ("images/a", "images/b", "clips/000/0", "clips/000/1", "clips/001/0"):
        place = folder / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(value)
    keys = [f"000/{number:08d}" for number in range(5)]
    write_store(folder / "clips.lmdb", {key.encode(): value for key in keys}, "".join(f"{k}.png {line}" for k in keys))
    (folder / "lists").mkdir(exist_ok=True)
    (folder / "lists" / "a.txt").write_text("000 4 (24,24,3)\n")


def run(data: bytes, folder: Path) -> None:
    """Check the data set as part of an option file, open it, and draw a sample for training and for testing."""
    _data(folder)
    try:
        dataset = json.loads(data)
    except (ValueError, RecursionError):
        raise UserError("cut off: not an input") from None
    options = {
        "name": "n",
        "model_type": "ImageDistillModel",
        "scale": 2,
        "network_g": {"type": "FSRCNN", "scale": 2},
        "datasets": {"train": dataset},
        "train": {"total_iter": 5, "pixel_opt": {"type": "L1Loss"}, "optim_g": {"type": "Adam"}},
    }
    if isinstance(dataset, dict):
        dataset.setdefault("batch_size_per_gpu", 1)
    opt = complete(Document(options, "options.yml"), is_train=True, path="options.yml", root=folder)
    for phase in ("train", "val"):
        opened = open_dataset(opt.datasets["train"], f"datasets.{phase}")
        if len(opened):
            opened.sample(0, np.random.default_rng(0)) if phase == "train" else opened[0]


TARGET = Target(
    "datasets",
    "data sets of option files, over small images, clips and stores",
    seeds,
    run,
    json_mutator(lambda: _WORDS, READABLE),
    structured=1.0,
    share=8,
)
