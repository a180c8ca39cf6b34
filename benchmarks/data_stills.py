"""Random training samples of clips rendered from photographs, beside those of real clips.

    python -m benchmarks.data_stills VIDEO... [--frames 12] [--rounds 40] [--out FILE]

The photographs are those that ship in scikit-image, in memory; the clips are halved videos in a webp store, whose LR is
made on the fly. A sample is 3 HR frames and 7 LR frames x4 with flips. All readers take turns in one process and
thread, and processor time is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.data_clips import take_turns
from benchmarks.data_command import run
from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.data.pair_dataset import PairDataset
from kdsr_arch.data.prepare.demo_data import make_demo_images
from kdsr_arch.data.prepare.plans import prepare_video_clips
from kdsr_arch.data.still_clip_dataset import StillClipDataset

CROPS = (64, 128)


def reader(dataset: PairDataset) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    return lambda: dataset.sample(int(rng.integers(len(dataset))), rng)


def report(videos: list[Path], count: int, rounds: int, root: Path) -> dict[str, object]:
    photos = make_demo_images(root / "images") / "train_GT"
    folder = root / "videos"
    folder.mkdir()
    for video in videos:
        (folder / video.name).symlink_to(video.resolve())
    spans = {video.stem: (0, count) for video in videos}
    prepare_video_clips(folder, root / "real.lmdb", ranges=spans)
    readers = {}
    for crop in CROPS:
        opt = {"scale": 4, "gt_size": crop, "clip_length": 3, "num_frame": 5, "use_hflip": True, "use_rot": True}
        sets = {"rendered": StillClipDataset(dataroot_gt=str(photos), cache=True, **opt)}
        sets |= {"webp": ClipDataset(dataroot_gt=str(root / "real.lmdb"), cache=False, **opt)}
        sets |= {"memory": ClipDataset(dataroot_gt=str(root / "real.lmdb"), cache=True, **opt)}
        for name, dataset in sets.items():
            for index in range(len(dataset)):  # into memory
                dataset.sample(index, np.random.default_rng(0))
            readers[f"{name}, HR crop {crop}"] = reader(dataset)
    times = take_turns(readers, rounds)
    rows = {
        name: {"ms_per_sample": middle, "quartiles": [low, high], "samples_per_second": round(1e3 / middle, 1)}
        for name, (low, middle, high) in times.items()
    }
    return {"frames": f"{count} of each of {len(videos)} videos", "rows": rows}


if __name__ == "__main__":
    run(__doc__ or "", report, "frames", count=12, rounds=40)
