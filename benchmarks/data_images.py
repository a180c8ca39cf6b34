"""Random patches of 2K pictures: this project's stores beside BasicSR's PairedImageDataset on its own PNG LMDB.

    python -m benchmarks.data_images VIDEO... [--pictures 8] [--rounds 20] [--out FILE]

Pictures of 2040x1356 (DIV2K's usual size) made of frames of the videos, whole, without sub-images; HR patch 192, scale
4. Readers take turns as in data_clips.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.data_clips import CODECS, disk_bytes, take_turns
from benchmarks.data_command import run
from benchmarks.data_frames import pictures, video_frames, write_folder
from kdsr_arch.data.image_dataset import ImagePairDataset
from kdsr_arch.data.prepare.frame_writer import Making
from kdsr_arch.data.prepare.plans import convert_images
from kdsr_arch.data.sources import FolderSource, LmdbSource
from kdsr_arch.data.store.codec import codec_named


def make_stores(videos: list[Path], count: int, root: Path) -> dict[str, tuple[Path, Path]]:
    """(HR, LR) stores by reader."""
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    frames = [frame for clip in video_frames(videos, -(-count // len(videos))).values() for frame in clip]
    write_folder({"all": pictures(frames[:count])}, root / "hr")
    low = {"scale": 4, "kind": "BI", "border": "symmetric"}
    stores = {}
    for name in CODECS:
        hr, lr, making = root / f"{name}_hr.lmdb", root / f"{name}_lr.lmdb", Making(codec_named(name))
        convert_images([root / "hr" / "all"], hr, making=making)
        convert_images([root / "hr" / "all"], lr, degrade=low, making=making)
        stores[name] = (hr, lr)
    small = LmdbSource(stores["raw"][1])
    write_folder({"all": [small.get(key) for key in small]}, root / "lr")
    for side in ("hr", "lr"):
        keys = FolderSource(root / side / "all").keys()
        names = [f"{key}.png" for key in keys]
        make_lmdb_from_imgs(str(root / side / "all"), str(root / f"basicsr_{side}.lmdb"), names, keys)
    stores["basicsr"] = (root / "basicsr_hr.lmdb", root / "basicsr_lr.lmdb")
    return stores


def options(gt: Path, lq: Path) -> dict:
    return {
        "name": "images", "phase": "train", "dataroot_gt": str(gt), "dataroot_lq": str(lq), "scale": 4,
        "gt_size": 192, "use_hflip": True, "use_rot": True, "cache": False, "io_backend": {"type": "lmdb"},
    }  # fmt: skip


def readers_of(stores: dict[str, tuple[Path, Path]]) -> dict[str, Callable[[], object]]:
    from basicsr.data.paired_image_dataset import PairedImageDataset

    theirs = PairedImageDataset(options(*stores["basicsr"]))
    readers: dict[str, Callable[[], object]] = {"basicsr": lambda: theirs[random.randrange(len(theirs))]}
    rng = np.random.default_rng(0)
    for name in CODECS:
        ours = ImagePairDataset(**options(*stores[name]))
        readers[name] = lambda ours=ours: ours.sample(int(rng.integers(len(ours))), rng)
    return readers


def report(videos: list[Path], count: int, rounds: int, root: Path) -> dict:
    stores = make_stores(videos, count, root)
    times = take_turns(readers_of(stores), rounds, 2)
    size = {name: sum(map(disk_bytes, pair)) for name, pair in stores.items()}
    rows = {
        name: {
            "ms_per_sample": middle, "quartiles": [low, high], "samples_per_second": round(1e3 / middle, 1),
            "times_basicsr": round(times["basicsr"][1] / middle, 2),
            "size_of_basicsr": round(size[name] / size["basicsr"], 3),
        }
        for name, (low, middle, high) in times.items()
    }  # fmt: skip
    return {"pictures": f"{count} of 2040x1356", "rows": rows}


if __name__ == "__main__":
    run(__doc__, report, "pictures", count=8, rounds=20)
