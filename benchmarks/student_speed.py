"""Frames per second of every video student, at 180x120 x4 by default.

    python -m benchmarks.student_speed --threads 2 [--frames 20] [--only vespcn] [--out FILE]

Each row restores a stream as in use: one window per frame, batch 1, the input's bicubic enlargement and optical flow
included. The median over the frames is reported beside the fastest, which is what an idle machine would give; the
processor time of the fastest frame (all threads) says what the work costs on a shared machine, best with --threads 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.record import save
from kdsr_arch.archs.fastdvdnet_arch import FastDVDnet
from kdsr_arch.archs.vespcn_arch import VESPCN
from kdsr_arch.archs.vsrnet_arch import VSRNet
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.bicubic import upsample_bicubic

REALTIME = {"num_feat": 32, "num_flow_feat": 8, "base": "bicubic"}
STUDENTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "vespcn": (VESPCN, {}),
    "vespcn 5 frames": (VESPCN, {"num_frame": 5}),
    "vespcn real time": (VESPCN, REALTIME),
    "vespcn real time, no motion": (VESPCN, {**REALTIME, "motion": False}),
    "vespcn real time, y": (VESPCN, {**REALTIME, "color": "y"}),
    "vespcn tiny": (VESPCN, {**REALTIME, "num_feat": 16, "num_hr_feat": 16, "num_block": 2}),
    "vsrnet": (VSRNet, {}),
    "vsrnet small": (VSRNet, {"num_feat": 8, "num_mid_feat": 8, "num_frame": 3}),
    "fastdvdnet": (FastDVDnet, {}),
    "fastdvdnet small": (FastDVDnet, {"channels": [8, 16, 32], "num_interm": 8, "num_hr_feat": 8}),
}


class Bicubic(nn.Module):
    """MATLAB's bicubic, the yardstick."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upsample_bicubic(x, 4)


def measure(net: nn.Module, traits: Traits, frames: int, width: int, height: int) -> dict[str, Any]:
    """Times ``frames`` single-window restorations of random video."""
    runner = Runner(net.eval(), traits)
    video = torch.rand(1, frames + traits.num_frame + 1, 3, height, width)
    times, work = [], []
    for i in range(frames + 2):
        start, start_work = time.perf_counter(), time.process_time()
        runner.restore(video[:, i : i + traits.num_frame], clip=1)
        times.append(time.perf_counter() - start)
        work.append(time.process_time() - start_work)
    times, work = times[2:], work[2:]  # the first calls prepare kernels
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "frames_per_second": round(1 / statistics.median(times), 2),
        "frames_per_second_fastest": round(1 / min(times), 2),
        "cpu_ms_per_frame": round(1000 * min(work), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--size", type=int, nargs=2, default=(180, 120), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--only", default="", help="measure the students whose name contains this")
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = {}
    if not args.only:
        rows["bicubic"] = measure(Bicubic(), Traits("image", 4), args.frames, *args.size)
    for name, (make, options) in STUDENTS.items():
        if args.only in name:
            net = make(scale=4, **options)
            rows[name] = {"options": options, **measure(net, net.traits, args.frames, *args.size)}
    result = {"input": list(args.size), "scale": 4, "threads": args.threads, "frames": args.frames, "students": rows}
    print(json.dumps(result, indent=1))
    save(args.out, result)


if __name__ == "__main__":
    main()
