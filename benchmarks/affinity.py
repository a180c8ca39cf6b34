"""Spatial affinity in tiles against the plain formula: time, and peak memory of a 256x256 map.

    python -m benchmarks.affinity [--large] [--threads N] [--out FILE]

Prints one line a case: seconds of forward and backward, and memory over the features and their gradient. The large
case (64 channels, 256x256) takes about two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.record import save
from kdsr_arch.losses.fakd_loss import FAKDLoss

CASES = [(16, 64, 48, 48), (1, 64, 96, 96)]
LARGE = (1, 64, 256, 256)


def peak_mib() -> float:
    """Return the largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(shape: tuple[int, ...], tile: int | str, repeats: int) -> dict[str, float]:
    """Seconds (the best of ``repeats``) and MiB over the features for one forward and backward."""
    student, teacher = torch.randn(shape, requires_grad=True), torch.randn(shape)
    student.grad = torch.zeros_like(student)
    loss = FAKDLoss(tile=tile, memory_gib=1024)
    FAKDLoss(tile=tile)(student[..., :8, :8], teacher[..., :8, :8]).backward()
    before, seconds = peak_mib(), []
    for _ in range(repeats):
        start = time.perf_counter()
        loss(student, teacher).backward()
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "mib": peak_mib() - before}


def in_own_process(shape: tuple[int, ...], tile: int | str, repeats: int, threads: int) -> dict[str, float]:
    """``measure`` in a fresh process, since peak memory never falls."""
    command = [sys.executable, "-m", "benchmarks.affinity", "--threads", str(threads)]
    command += ["--one", json.dumps([shape, tile, repeats])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report(large: bool, threads: int) -> list[dict]:
    """Measure and print all cases."""
    rows = []
    for shape in CASES:
        tiled, plain = (in_own_process(shape, tile, 3, threads) for tile in ("auto", "none"))
        rows.append({"shape": shape, "tiled": tiled, "plain": plain, "ratio": tiled["seconds"] / plain["seconds"]})
        print(f"{shape}: tiles {tiled['seconds']:.2f} s, {tiled['mib']:.0f} MiB; plain {plain['seconds']:.2f} s, "
              f"{plain['mib']:.0f} MiB; time ratio {rows[-1]['ratio']:.2f}")  # fmt: skip
    if large:
        tiled = in_own_process(LARGE, "auto", 1, threads)
        rows.append({"shape": LARGE, "tiled": tiled})
        print(f"{LARGE}: tiles {tiled['seconds']:.1f} s, {tiled['mib']:.0f} MiB; plain would need 64 GiB")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also the 256x256 map")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the figures there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        shape, tile, repeats = json.loads(args.one)
        print(json.dumps(measure(tuple(shape), tile, repeats)))
        return
    save(args.out, {"threads": args.threads, "cases": report(args.large, args.threads)})


if __name__ == "__main__":
    main()
