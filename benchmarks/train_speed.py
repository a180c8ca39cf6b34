"""LR pixels a second of small networks in training on a CPU: kdsr, a bare PyTorch loop, BasicSR's own command.

    python -m benchmarks.train_speed --data FOLDER [--nets msrresnet plain ecb] [--rounds 3] [--seconds 6] --out FILE

FOLDER holds HR images of 256 pixels a side and more. Four programs train the same network, in turns, each in a process
of its own on one thread:

    BasicSR          its own command on an option file: SRModel on its PairedImageDataset
    kdsr, same file  `kdsr train` on that file to the letter: BasicSR's step in our loop
    kdsr             `kdsr train` on that file with our model and data set, images in memory, and channels_last
    bare             zero_grad, forward, L1, backward, step on batches in memory; optimizer and memory order as for
                     kdsr, without average, log, gradient norm or check

Counted is the processor time of steps after a warm-up, data included, saving not: other programs on the machine disturb
it less than the clock. Each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import cuda
from benchmarks.record import save

WARM_UP = 20
POOL = 16  # batches that the bare loop has in memory
NETS = {  # network, batch, LR crop, steps a second or so
    "msrresnet": (
        {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 4, "upscale": 4}, 4, 24, 30,
    ),
    "plain": ({"type": "PlainSR", "num_feat": 16, "num_block": 5}, 4, 24, 120),
    "ecb": ({"type": "PlainSR", "num_feat": 16, "num_block": 5, "block": "ecb", "residual": "bicubic"}, 16, 48, 12),
}  # fmt: skip
PROGRAMS = ("BasicSR", "kdsr, same file", "kdsr", "bare")


def files(data: Path, folder: Path, net: str, seconds: float) -> dict[str, Path]:
    """Write the option file of each program."""
    network, batch, patch, rate = NETS[net]
    theirs = cuda.options(data, network, batch, patch, WARM_UP + round(seconds * rate)) | {"num_gpu": 0}
    theirs["datasets"]["train"]["num_worker_per_gpu"] = 0  # all is done in the process whose time is taken
    ours = copy.deepcopy(theirs) | {"model_type": "ImageDistillModel"}
    ours["datasets"]["train"] |= {"type": "ImagePairDataset", "resident": "device", "cache": False}
    ours["datasets"]["train"].pop("io_backend")
    ours["train"]["channels_last"] = True
    written = {}
    for program in PROGRAMS:
        values = theirs if program in PROGRAMS[:2] else ours
        written[program] = folder / f"{program}.yml"
        written[program].write_text(yaml.safe_dump({**values, "name": program}))
    return written


# ---------------------------------------------------------------------------------------------- in a process of its own


def timed(step: Callable[..., Any], total: int) -> Callable[..., Any]:
    """Wrap a training step, so that its last call tells the processor time of a step since the warm-up."""
    calls, began = itertools.count(1), [0.0]

    def wrapped(*args: Any, **keywords: Any) -> Any:
        call = next(calls)
        if call == WARM_UP:
            began[0] = time.process_time()
        elif call == total:
            print(json.dumps({"seconds": (time.process_time() - began[0]) / (total - WARM_UP)}), flush=True)
        return step(*args, **keywords)

    return wrapped


def bare_step(values: Mapping[str, Any]) -> Callable[[], None]:
    """Return the least that training a network takes."""
    from kdsr_arch.registry import build

    section, train = values["datasets"]["train"], values["train"]
    layout = torch.channels_last if train.get("channels_last") else torch.contiguous_format
    torch.manual_seed(0)
    net = build("network", values["network_g"], "network_g").to(memory_format=layout)
    keywords = {k: v for k, v in train["optim_g"].items() if k != "type"}
    optimizer = getattr(torch.optim, train["optim_g"]["type"])(net.parameters(), **keywords)
    batch, side, loss = section["batch_size_per_gpu"], section["gt_size"], torch.nn.L1Loss()

    def images(side: int) -> torch.Tensor:
        return torch.rand(batch, 3, side, side)

    pool = [(images(side // 4).contiguous(memory_format=layout), images(side)) for _ in range(POOL)]
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = itertools.cycle(pool)

    def step() -> None:
        lq, gt = next(batches)
        optimizer.zero_grad()
        loss(net(lq), gt).backward()
        optimizer.step()

    return step


def run_here(program: str, file: Path) -> None:
    """Train, and print what a step takes."""
    from kdsr_arch.registry import names

    values = yaml.safe_load(file.read_text())
    total = values["train"]["total_iter"]
    if program == "bare":
        step = timed(bare_step(values), total)
        for _ in range(total):
            step()
    elif program == "BasicSR":
        from basicsr.models.sr_model import SRModel
        from basicsr.train import train_pipeline

        names("network")  # our networks are in BasicSR's registry from here on
        SRModel.optimize_parameters = timed(SRModel.optimize_parameters, total)
        sys.argv = ["train", "-opt", str(file)]
        train_pipeline(str(file.parent))
    else:
        from kdsr_arch.cli import main as kdsr
        from kdsr_arch.train import bridge, steps

        kind: Any = steps.Steps if program == "kdsr" else bridge.BridgedTrainer
        kind.step = timed(kind.step, total)
        kdsr(["train", "-opt", str(file), "--root", str(file.parent)])


# ------------------------------------------------------------------------------------------------------------- in turns


def seconds_of(program: str, file: Path) -> float:
    """Run a program in a process of its own; return the processor seconds of a step."""
    with tempfile.TemporaryDirectory(dir=file.parent) as place:
        own = Path(place) / file.name
        own.write_text(file.read_text())
        words = [sys.executable, "-m", "benchmarks.train_speed", "--run", program, "--file", str(own)]
        run = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith('{"seconds"')]
    if not lines:
        raise RuntimeError(f"{program}: {(run.stdout + run.stderr)[-1500:]}")
    return json.loads(lines[0])["seconds"]


def measure(net: str, data: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Time all programs on a network, in turns."""
    _, batch, patch, _ = NETS[net]
    written = files(data, folder, net, args.seconds)
    times: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    for _ in range(args.rounds):
        for program, file in written.items():
            times[program].append(seconds_of(program, file))
    rates = {program: batch * patch**2 / statistics.median(values) for program, values in times.items()}
    figures = {
        "batch": batch,
        "lr_crop": patch,
        "lr_pixels_per_processor_second": {program: round(rate) for program, rate in rates.items()},
        "milliseconds": {program: [round(1e3 * s, 2) for s in values] for program, values in times.items()},
        "kdsr_over_bare": round(rates["kdsr"] / rates["bare"], 3),
        "kdsr_over_basicsr": round(rates["kdsr"] / rates["BasicSR"], 2),
        "same_file_over_basicsr": round(rates["kdsr, same file"] / rates["BasicSR"], 2),
    }
    print(net, json.dumps(figures), flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of a training, about")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run_here(args.run, args.file)
        return
    if args.data is None:
        parser.error("--data FOLDER is missing")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        cuda.prepare(args.data, folder)
        result = {}
        for net in args.nets:
            result[net] = measure(net, folder, folder, args)
            save(args.out, result)


if __name__ == "__main__":
    main()
