"""How long a training takes to say something and to begin, and the memory it takes.

    python -m benchmarks.startup [-opt options/train_std.yml] [--out FILE]

Starts `kdsr train` with three iterations in a process of its own, in a temporary folder, and reads its output line by
line. The demo's clips and the teacher's weights must be there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def measure(option_file: Path, threads: int) -> dict[str, float]:
    """Seconds to the first line and to the first iteration; peak memory in GB of the largest process."""
    force = ["train:total_iter=3", "logger:print_freq=1", "val:val_freq=1000000", "train:scheduler:periods=[3]"]
    times: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "kdsr_arch.cli", "train", "-opt", str(option_file), "--root", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--force_yml", *force],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        for line in process.stdout:
            times.setdefault("first_line_s", time.perf_counter() - began)
            if line.startswith("[1/3"):
                times["first_iteration_s"] = time.perf_counter() - began
        if process.wait():
            raise SystemExit(f"the training failed: {' '.join(command)}")
    times["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-opt", type=Path, default=ROOT / "options" / "train_std.yml")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    record = {**measure(args.opt, args.threads), "options": args.opt.name, "threads": args.threads}
    print(json.dumps(record, indent=1))
    from benchmarks.record import (
        save,  # only now: what starts the training counts in its peak memory, an imported PyTorch too
    )

    save(args.out, record)


if __name__ == "__main__":
    main()
