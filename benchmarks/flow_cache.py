"""What stored optical flow saves: training steps of VSRNet with flow estimated live and read from a store.

    python benchmarks/flow_cache.py [--steps 6] [--device cpu] [--out FILE]

30 frames of two of the demo's clips, x4, batches of 2 clips of 3 frames, HR crops of 64 and 128, windows of 5,
the published network under DIS flow, SpyNet (untrained weights: the time is the same) and no flow at all. Data are
loaded in the training process, so that reading the flow counts. Steps alternate; told is the best time of each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import save

from kdsr_arch import compat  # noqa: F401
from kdsr_arch.data.loader import open_dataset, train_batches
from kdsr_arch.data.prepare import demo_clips as demo
from kdsr_arch.engine.flow_cache import fill_flow_store
from kdsr_arch.train.distill_model import VideoDistillModel

from basicsr.archs.spynet_arch import SpyNet  # isort: skip


def options(folder: Path, flow: str, patch: int, steps: int) -> dict[str, Any]:
    """Of a plain training of the published VSRNet on the demo's clips."""
    data = {
        "name": "demo",
        "type": "ClipDataset",
        "phase": "train",
        "dataroot_gt": str(folder / "train_GT.lmdb"),
        "scale": 4,
        "gt_size": patch,
        "clip_length": 3,
        "num_frame": 5,
        "use_hflip": True,
        "use_rot": True,
        "exclude": ["carphone_pristine"],
        "frames": [0, 30],
        "cache": True,
        "batch_size_per_gpu": 2,
        "num_worker_per_gpu": 0,
    }
    train = {"total_iter": steps, "optim_g": {"type": "Adam", "lr": 1e-4}, "pixel_opt": {"type": "L1Loss"}}
    network: dict[str, Any] = {"type": "VSRNet", "flow": flow}
    if flow == "spynet":
        network["spynet_path"] = str(folder / "spynet.pth")
    return {
        "scale": 4,
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {"train": data},
        "network_g": network,
        "path": {},
        "train": train,
    }


def stepper(opt: dict[str, Any]) -> Callable[[], float]:
    """Gives the seconds of one training step, drawing its batch included."""
    batches = train_batches(opt, open_dataset(opt["datasets"]["train"], "datasets.train"), 0)
    model = VideoDistillModel(opt)
    model.prepare(batches.peek() or {})
    cuda, count = model.device.type == "cuda", iter(range(1, 1 << 30))
    clock = time.perf_counter if cuda else time.process_time

    def step() -> float:
        start, number = clock(), next(count)
        model.feed_data(next(batches))
        model.optimize_parameters(number)
        if cuda:
            torch.cuda.synchronize()
        return clock() - start

    return step


def compare(folder: Path, flow: str, patch: int, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a step without flow, with live and with stored flow; what the store took."""
    opt = options(folder, flow, patch, args.steps + 1)
    store = folder / f"{flow}.lmdb"
    opt["num_gpu"] = int(args.device == "cuda")
    found: dict[str, Any] = {}
    if not store.exists():
        filled = fill_flow_store(opt, store)
        found = {"store_s": round(filled.seconds, 1), "store_kib_a_frame": round(filled.bytes / filled.frames / 1024)}
    data = {"train": {**opt["datasets"]["train"], "flow_cache": str(store)}}
    none = {**opt, "network_g": {"type": "VSRNet", "flow": "none"}}
    steps = {"none_ms": stepper(none), "live_ms": stepper(opt), "stored_ms": stepper({**opt, "datasets": data})}
    for step in steps.values():
        step()
    times = [{name: step() for name, step in steps.items()} for _ in range(args.steps)]
    best = {name: min(row[name] for row in times) * 1e3 for name in steps}
    found |= {name: round(value, 1) for name, value in best.items()}
    found["live_over_stored"] = round(best["live_ms"] / best["stored_ms"], 3)
    print(f"{flow}, HR crop {patch}: {found}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo.prepare(folder)
        torch.save({"params": SpyNet().state_dict()}, folder / "spynet.pth")
        found = {
            f"{flow}, HR crop {patch}": compare(folder, flow, patch, args)
            for flow in ("dis", "spynet")
            for patch in (64, 128)
        }
    protocol = {"batch": "2 clips of 3 frames, windows of 5", "threads": torch.get_num_threads()}
    save(args.out, {**protocol, **found}, args.device)


if __name__ == "__main__":
    main()
