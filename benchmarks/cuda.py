"""What training and restoring cost on a GPU.

    python -m benchmarks.cuda --data FOLDER [--parts edsr distill small frames] [--steps 200] --out FILE

    edsr     EDSR 64x16 x4, batch 16, crops of 48x48: our training beside BasicSR's own command on the same file
    distill  a step of space-time distillation, VESPCN from EDVR-M, beside the bare loop over the same networks
    small    LR pixels per second of a network of 20,000 parameters: loader, images on the device, CUDA graph
    frames   milliseconds a frame of small students at 320x180 and 960x540

FOLDER holds HR images of 256 pixels a side and more. Each figure is of steps after a warm-up, without saving and
validating; BasicSR's is what its log says of the last steps. A part that fails is told in the file, and the others go
on.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml

from benchmarks import distill_overhead
from benchmarks.record import save
from kdsr_arch.data.pairs import DegradedSource
from kdsr_arch.data.sources import FolderSource
from kdsr_arch.device import autocast
from kdsr_arch.options import load_options
from kdsr_arch.registry import build
from kdsr_arch.train.trainer import Trainer

WARM_UP = 30
EDSR = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_block": 16, "upscale": 4}
SMALL = {"type": "PlainSR", "num_feat": 16, "num_block": 5}
FAST = {"amp": "bf16", "compile": True, "channels_last": True}
Figures = dict[str, Any]
Parts = Iterator[tuple[str, Any]]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # a rehearsal


def wait() -> None:
    """Wait until the GPU has done all that was asked of it."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def forget_peak() -> None:
    """Start to measure the peak of the GPU's memory anew."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak() -> int:
    """Return the most MiB that tensors took on the GPU."""
    return round(torch.cuda.max_memory_allocated() / 2**20) if DEVICE == "cuda" else 0


def options(data: Path, network: Mapping[str, Any], batch: int, patch: int, steps: int) -> dict[str, Any]:
    """Return an option file that BasicSR and this project train alike, with LR images at `data`/LR."""
    return {
        "name": "cuda", "model_type": "SRModel", "scale": 4, "num_gpu": 1, "manual_seed": 0,
        "datasets": {"train": {
            "name": "images", "type": "PairedImageDataset", "dataroot_gt": str(data / "HR"),
            "dataroot_lq": str(data / "LR"), "filename_tmpl": "{}", "io_backend": {"type": "disk"},
            "gt_size": 4 * patch, "use_hflip": True, "use_rot": True, "num_worker_per_gpu": 8,
            "batch_size_per_gpu": batch, "dataset_enlarge_ratio": 100,
        }},
        "network_g": dict(network),
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "ema_decay": 0.999, "optim_g": {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.99]},
            "scheduler": {"type": "MultiStepLR", "milestones": [10 * steps], "gamma": 0.5},
            "total_iter": steps, "warmup_iter": -1, "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0},
        },
        "logger": {"print_freq": 50, "save_checkpoint_freq": 1e9, "use_tb_logger": False},
        "dist_params": {"backend": "nccl", "port": 29500},
    }  # fmt: skip


def ours(values: Mapping[str, Any], folder: Path, data: str = "", **train: Any) -> Figures:
    """Train by our model.

    Args:
        data: 'loader' or 'device': our own data set in memory, or on the device, in place of BasicSR's.
        train: keys to set in the section.
    """
    values = copy.deepcopy(dict(values)) | {"model_type": "ImageDistillModel"}
    values["train"] |= train
    section = values["datasets"]["train"]
    if data:
        section |= {"type": "ImagePairDataset", "resident": "device" if data == "device" else None}
        section.pop("io_backend")
    file = folder / "ours.yml"
    file.write_text(yaml.safe_dump(values))
    forget_peak()
    trainer = Trainer(load_options(file, is_train=True, root=folder))
    count = trainer.total - WARM_UP
    with trainer.graph.on_stream() if trainer.graph else nullcontext():
        for iteration in range(1, trainer.total + 1):
            if iteration == WARM_UP + 1:
                wait()
                began = time.perf_counter()
            trainer.step(iteration)
        wait()
        seconds = time.perf_counter() - began
    trainer.close()
    return rates(section, count / seconds) | {"peak_mib": peak()}


def rates(section: Mapping[str, Any], steps: float) -> Figures:
    """Return what a rate of steps per second means for a data section."""
    samples = steps * section["batch_size_per_gpu"]
    pixels = samples * (section["gt_size"] / 4) ** 2
    return {"steps_per_s": round(steps, 1), "samples_per_s": round(samples), "lr_pixels_per_s": round(pixels)}


def basicsr(values: Mapping[str, Any], folder: Path) -> Figures:
    """Train by BasicSR's own command, as its log tells."""
    file = folder / "basicsr.yml"
    file.write_text(yaml.safe_dump(dict(values)))
    program = "import kdsr_arch; from basicsr.train import train_pipeline; train_pipeline('.')"
    run = subprocess.run(
        [sys.executable, "-c", program, "-opt", str(file)], cwd=folder, capture_output=True, text=True, check=False
    )
    times = re.findall(r"time \(data\): ([0-9.]+)", run.stdout + run.stderr)
    if not times:
        raise RuntimeError((run.stdout + run.stderr)[-600:])
    return rates(values["datasets"]["train"], 1 / float(times[-1]))


def edsr(data: Path, folder: Path, steps: int) -> Parts:
    """Compare with BasicSR's own training command."""
    values = options(data, EDSR, 16, 48, steps)
    runs: dict[str, Callable[[], Figures]] = {
        "ours, bf16 compile channels_last": lambda: ours(values, folder, "loader", **FAST),
        "BasicSR, fp32": lambda: basicsr(values, folder),
        "ours, fp32": lambda: ours(values, folder, "loader"),
        "ours, same data set, fp32": lambda: ours(values, folder),
        "ours, bf16 compile channels_last, on the device, graph": lambda: ours(
            values, folder, "device", cuda_graph=True, **FAST
        ),
    }
    for name, run in runs.items():
        yield name, attempt(name, run)


def distill(data: Path, folder: Path, steps: int) -> Parts:
    """Time space-time distillation beside the bare loop; the published terms, and those of the default option file."""
    for amp, (batch, size) in itertools.product(("no", "bf16"), ((4, 32), (16, 64))):
        for terms in ("published", "light"):
            args = argparse.Namespace(device=DEVICE, size=size, batch=batch, clip=5, steps=steps // 5, amp=amp)

            def run(args: argparse.Namespace = args, terms: str = terms) -> Figures:
                forget_peak()
                student, teacher, _ = distill_overhead.pair_of("paper")
                measured = distill_overhead.measure(student, teacher, distill_overhead.TERMS[terms], args)
                return measured | {"peak_mib": peak()}

            yield (
                f"{terms}, amp {amp}, batch {batch}, {size}x{size}",
                attempt(f"distill {terms} {amp} {batch}x{size}", run),
            )


def small(data: Path, folder: Path, steps: int) -> Parts:
    """Find the rate of a small network, by what feeds it and how its step is started."""
    for batch, patch in ((16, 48), (64, 48), (64, 64), (256, 48)):
        values = options(data, SMALL, batch, patch, 3 * steps)
        for name, feed, train in (
            ("loader, fp32", "loader", {}),
            ("device, fp32", "device", {}),
            ("device, fp32 graph", "device", {"cuda_graph": True}),
            ("device, bf16 channels_last graph", "device", {"cuda_graph": True, "amp": "bf16", "channels_last": True}),
            ("device, bf16 compile channels_last graph", "device", {"cuda_graph": True, **FAST}),
        ):
            if batch > 16 and name == "loader, fp32":
                continue
            label = f"batch {batch}, {patch}x{patch}, {name}"
            yield label, attempt(label, lambda v=values, f=feed, t=train: ours(v, folder, f, **t))


def frames(data: Path, folder: Path, steps: int) -> Parts:
    """Time one frame after the other, as a player would restore them."""
    nets = {
        "PlainSR 19k x4": SMALL | {"scale": 4},
        "PlainSR 53k x4": {"type": "PlainSR", "num_feat": 24, "num_block": 8, "scale": 4},
        "FSRCNN x4": {"type": "FSRCNN", "scale": 4},
    }
    for name, spec in nets.items():
        net = build("network", spec, "network").to(DEVICE).eval().to(memory_format=torch.channels_last)
        channels = 1 if name.startswith("FSRCNN") else 3
        for width, height in ((320, 180), (960, 540)):
            for amp in ("no", "fp16"):
                lq = torch.rand(1, channels, height, width, device=DEVICE).to(memory_format=torch.channels_last)
                with torch.inference_mode(), autocast(lq.device, amp):
                    taken = attempt(name, lambda n=net, x=lq: timed(n, x))
                yield f"{name}, {width}x{height}, amp {amp}", taken


def timed(net: torch.nn.Module, lq: torch.Tensor, count: int = 100) -> float:
    """Return the median of milliseconds of one call, its launch included."""
    times = []
    for _ in range(count):
        wait()
        began = time.perf_counter()
        net(lq)
        wait()
        times.append(1e3 * (time.perf_counter() - began))
    return round(statistics.median(times[count // 5 :]), 3)


def attempt(name: str, run: Callable[[], Any]) -> Any:
    """Return what was measured, or what went wrong: one part must not cost the others their time on the GPU."""
    began = time.monotonic()
    try:
        result = run()
    except Exception as error:
        traceback.print_exc()
        result = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:400]}"
    print(f"{name} ({time.monotonic() - began:.0f} s): {result}", flush=True)
    return result


def prepare(images: Path, folder: Path) -> None:
    """Write HR images, cut to multiples of 4, and their LR side by side, as BasicSR reads them."""
    source = DegradedSource(FolderSource(images), 4)
    for number, key in enumerate(source):
        low, high = source.get_pair(key)
        for side, frame in (("LR", low), ("HR", high)):
            (folder / side).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / side / f"{number:04d}.png"), frame[..., ::-1])


PARTS = {"edsr": edsr, "distill": distill, "small": small, "frames": frames}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: Figures = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(args.data, folder)
        for part in args.parts:
            for name, figures in PARTS[part](folder, folder, args.steps):
                result.setdefault(part, {})[name] = figures
                save(args.out, result, DEVICE)  # at once: the time on a GPU may end in the middle


if __name__ == "__main__":
    main()
