"""The driver: ``python -m tests.fuzz --target all --inputs 200000 --out benchmarks/results/fuzz.json``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdsr_arch.records import versions
from tests.fuzz.campaign import Tally, fuzz_target, shares
from tests.fuzz.targets import NAMES, load

_PACKAGES = ("atheris", "hypothesis", "torch", "numpy", "opencv-python", "pillow", "av", "lmdb", "pydantic", "pyyaml",
             "safetensors")  # fmt: skip


def record(tallies: Sequence[Tally], command: str) -> dict[str, Any]:
    """What is written to the results file."""
    targets = {
        tally.target: {
            "reads": load(tally.target).what, "inputs": tally.inputs, "accepted": tally.accepted,
            "refused": tally.refused, "findings": len(tally.findings), "seconds": tally.seconds,
            "engines": tally.engines, "edges_seeds": tally.coverage and tally.coverage[0],
            "edges_end": tally.coverage and tally.coverage[1],
        }
        for tally in tallies
    }  # fmt: skip
    return {
        "command": command, "date": time.strftime("%Y-%m-%d"),
        "inputs": sum(tally.inputs for tally in tallies), "findings": sum(len(tally.findings) for tally in tallies),
        "seconds": round(sum(tally.seconds for tally in tallies), 1), "targets": targets,
        "versions": versions(_PACKAGES),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a campaign; returns 1 when it found something."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", nargs="+", default=["all"], choices=["all", *NAMES])
    parser.add_argument("--inputs", type=int, default=20_000, help="of all targets together (default: 20000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the record (JSON)")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    args = parser.parse_args(argv)
    names = list(NAMES) if "all" in args.target else args.target
    tallies = []
    for name, count in shares(names, args.inputs).items():
        tally = fuzz_target(name, count, args.seed, args.keep)
        tallies.append(tally)
        print(
            f"{name}: {tally.inputs:,} inputs in {tally.seconds:.0f} s, {tally.accepted:,} accepted, "
            f"{tally.refused:,} refused, {len(tally.findings)} findings, edges {tally.coverage}",
            flush=True,
        )
        for finding in tally.findings:
            print(f"  {finding['signature']}", flush=True)
    if args.out:
        words = sys.argv[1:] if argv is None else argv
        text = json.dumps(record(tallies, f"python -m tests.fuzz {shlex.join(words)}"), indent=1)
        args.out.write_text(text + "\n", encoding="utf-8")
    return int(any(tally.findings for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
