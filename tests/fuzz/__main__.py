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
from tests.fuzz.campaign import Outcome, fuzz_target, shares
from tests.fuzz.targets import NAMES, load

_PACKAGES = ("atheris", "hypothesis", "torch", "numpy", "opencv-python", "pillow", "av", "lmdb", "pydantic", "pyyaml",
             "safetensors")  # fmt: skip


def record(outcomes: Sequence[Outcome], command: str) -> dict[str, Any]:
    """Return the content of the results file."""
    targets = {
        outcome.target: {
            "reads": load(outcome.target).what, "inputs": outcome.inputs, "accepted": outcome.accepted,
            "refused": outcome.refused, "findings": len(outcome.findings), "seconds": outcome.seconds,
            "engines": outcome.engines, "edges_seeds": outcome.coverage and outcome.coverage[0],
            "edges_end": outcome.coverage and outcome.coverage[1],
        }
        for outcome in outcomes
    }  # fmt: skip
    return {
        "command": command, "date": time.strftime("%Y-%m-%d"),
        "inputs": sum(one.inputs for one in outcomes), "findings": sum(len(one.findings) for one in outcomes),
        "seconds": round(sum(one.seconds for one in outcomes), 1), "targets": targets,
        "versions": versions(_PACKAGES),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a campaign; return 1 if it has findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", nargs="+", default=["all"], choices=["all", *NAMES])
    parser.add_argument("--inputs", type=int, default=20_000, help="of all targets together (default: 20000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the record (JSON)")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    args = parser.parse_args(argv)
    names = list(NAMES) if "all" in args.target else args.target
    outcomes = []
    for name, count in shares(names, args.inputs).items():
        outcome = fuzz_target(name, count, args.seed, args.keep)
        outcomes.append(outcome)
        print(
            f"{name}: {outcome.inputs:,} inputs in {outcome.seconds:.0f} s, {outcome.accepted:,} accepted, "
            f"{outcome.refused:,} refused, {len(outcome.findings)} findings, edges {outcome.coverage}",
            flush=True,
        )
        for finding in outcome.findings:
            print(f"  {finding['signature']}", flush=True)
    if args.out:
        words = sys.argv[1:] if argv is None else argv
        text = json.dumps(record(outcomes, f"python -m tests.fuzz {shlex.join(words)}"), indent=1)
        args.out.write_text(text + "\n", encoding="utf-8")
    return int(any(outcome.findings for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
