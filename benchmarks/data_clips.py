"""Random training samples of clips: this project's stores beside BasicSR's REDSDataset on its own PNG LMDB.

    python -m benchmarks.data_clips VIDEO... [--frames 12] [--rounds 40] [--out FILE]

Videos of 1280x720 or more. A sample is 5 LR frames (64x64 windows of 320x180) and the HR frame (256x256 of 1280x720)
with flips. All readers take turns, a few samples each, in one process and thread, and processor time is counted, so
that other load on the machine hits them alike. The files are in the page cache.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.data_command import run
from benchmarks.data_frames import video_frames, write_folder
from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.data.prepare.frame_writer import Making
from kdsr_arch.data.prepare.plans import convert_clips
from kdsr_arch.data.sources import FolderSource, LmdbSource
from kdsr_arch.data.store.codec import codec_named

SAMPLES_A_TURN = 5
CODECS = ("webp", "raw", "png")


def disk_bytes(store: Path) -> int:
    return (store / "data.mdb").stat().st_size


def make_stores(videos: list[Path], count: int, root: Path) -> dict[str, tuple[Path, Path]]:
    """(HR, LR) stores by reader: BasicSR's by its own maker, and ours in every format."""
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    write_folder(video_frames(videos, count), root / "hr")
    low = {"scale": 4, "kind": "BI", "border": "symmetric"}
    stores = {}
    for name in CODECS:
        making = Making(codec_named(name))
        hr, lr = root / f"{name}_hr.lmdb", root / f"{name}_lr.lmdb"
        convert_clips(root / "hr", hr, making=making)
        convert_clips(root / "hr", lr, degrade=low, making=making)
        stores[name] = (hr, lr)
    small = LmdbSource(stores["raw"][1])
    write_folder({clip: [small.get(key) for key in keys] for clip, keys in small.clips().items()}, root / "lr")
    for side in ("hr", "lr"):
        keys = FolderSource(root / side).keys()
        make_lmdb_from_imgs(str(root / side), str(root / f"basicsr_{side}.lmdb"), [f"{k}.png" for k in keys], keys)
    stores["basicsr"] = (root / "basicsr_hr.lmdb", root / "basicsr_lr.lmdb")
    return stores


def basicsr_reader(stores: tuple[Path, Path], root: Path) -> Callable[[], object]:
    """Draws samples as BasicSR's training does. Its clips must have 100 frames; ours are fewer, so the draw of the
    center, and nothing else, is bounded here to the frames that exist."""
    from basicsr.data import reds_dataset

    counts = {clip: len(keys) for clip, keys in FolderSource(root / "hr").clips().items()}
    meta = root / "meta.txt"
    # a clip named past REDS4 and the validation part, so that nothing is left out
    meta.write_text("".join(f"{clip} {count} (720,1280,3)\n" for clip, count in counts.items()))
    dataset = reds_dataset.REDSDataset(
        {
            "dataroot_gt": str(stores[0]), "dataroot_lq": str(stores[1]), "meta_info_file": str(meta),
            "dataroot_flow": None,
            "val_partition": "official", "io_backend": {"type": "lmdb"}, "num_frame": 5, "gt_size": 256, "scale": 4,
            "interval_list": [1], "random_reverse": False, "use_hflip": True, "use_rot": True,
        }
    )  # fmt: skip
    inside = [i for i, key in enumerate(dataset.keys) if 2 <= int(key[-8:]) < counts[key.split("/")[0]] - 2]
    return lambda: dataset[random.choice(inside)]


def our_reader(gt: Path, lq: Path | None, **changes: object) -> Callable[[], object]:
    opt = {
        "dataroot_gt": str(gt), "dataroot_lq": str(lq) if lq else None, "scale": 4, "phase": "train", "num_frame": 5,
        "clip_length": 1, "gt_size": 256, "use_hflip": True, "use_rot": True, "cache": False, **changes,
    }  # fmt: skip
    dataset = ClipDataset(**opt)
    rng = np.random.default_rng(0)
    return lambda: dataset.sample(int(rng.integers(len(dataset))), rng)


def take_turns(readers: Mapping[str, Callable[[], object]], rounds: int, each: int = SAMPLES_A_TURN) -> dict:
    """Milliseconds of processor time of one call of each reader: quartiles of the rounds, in one thread."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for reader in readers.values():
        reader()
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, reader in readers.items():
            begin = time.process_time()
            for _ in range(each):
                reader()
            times[name].append(1e3 * (time.process_time() - begin) / each)
    return {
        name: [round(float(q), 3) for q in np.quantile(values, (0.25, 0.5, 0.75))] for name, values in times.items()
    }


def parts_of_a_sample(gt: Path, lq: Path, rounds: int) -> dict[str, float]:
    """Where the milliseconds of one of our samples go."""
    from torch.utils.data import default_collate

    from kdsr_arch.data.augment import random_crop, random_flip, to_tensor

    high, low = LmdbSource(gt), LmdbSource(lq)
    keys = high.keys()[:5]
    rng = np.random.default_rng(0)
    crops = [random_crop(rng, low.size(keys[0]), 64) for _ in range(8)]
    lq_frames = low.get_many(keys, crops[0])
    gt_frames = high.get_many(keys[:1], crops[0].scaled(4))
    items = [{"lq": to_tensor(lq_frames), "gt": to_tensor(gt_frames)} for _ in range(4)]
    turn = iter(range(10**9))
    timed = take_turns(
        {
            "read_hr": lambda: high.get(keys[0], crops[next(turn) % 8].scaled(4)),
            "read_lr_of_5": lambda: low.get_many(keys, crops[next(turn) % 8]),
            "flip_and_to_tensor": lambda: (
                to_tensor(lq_frames, random_flip(rng, True, True)),
                to_tensor(gt_frames, random_flip(rng, True, True)),
            ),
            "collate_of_4": lambda: default_collate(items),
        },
        rounds,
    )
    parts = {name: quartiles[1] for name, quartiles in timed.items()}
    parts["collate"] = round(parts.pop("collate_of_4") / 4, 3)
    return parts


def report(videos: list[Path], count: int, rounds: int, root: Path) -> dict:
    stores = make_stores(videos, count, root)
    raw = sum(len(FolderSource(root / "hr").keys()) * h * w * 3 for h, w in ((720, 1280), (180, 320)))
    readers = {"basicsr": basicsr_reader(stores["basicsr"], root)}
    readers |= {name: our_reader(*stores[name]) for name in CODECS}
    readers |= {
        "folder of PNG": our_reader(root / "hr", root / "lr"),
        "webp, LR on the fly": our_reader(stores["webp"][0], None),
        "raw, LR on the fly": our_reader(stores["raw"][0], None),
        "in memory": our_reader(stores["webp"][0], stores["webp"][1], cache=True),
    }
    for _ in range(100):
        readers["in memory"]()
    times = take_turns(readers, rounds)
    size = {name: sum(map(disk_bytes, pair)) for name, pair in stores.items()}
    rows = {}
    for name, (low, middle, high) in times.items():
        stored = size.get(name.partition(",")[0])
        rows[name] = {
            "ms_per_sample": middle, "quartiles": [low, high], "samples_per_second": round(1e3 / middle, 1),
            "times_basicsr": round(times["basicsr"][1] / middle, 2),
            "size_of_basicsr": round(stored / size["basicsr"], 3) if stored and "fly" not in name else None,
            "size_of_raw": round(stored / raw, 3) if stored and "fly" not in name else None,
        }  # fmt: skip
    parts = {name: parts_of_a_sample(*stores[name], rounds) for name in CODECS[:3]}
    return {"frames": f"{count} of each of {len(videos)} videos", "rows": rows, "parts": parts}


if __name__ == "__main__":
    run(__doc__, report, "frames", count=12, rounds=40)
