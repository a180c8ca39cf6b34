"""The command line that the data benchmarks share: videos, how much of them, rounds, and where the figures go."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.record import save

Report = Callable[[list[Path], int, int, Path], dict[str, object]]


def run(doc: str, report: Report, counted: str, count: int, rounds: int) -> None:
    """Parse the command line, call ``report(videos, count, rounds, empty folder)``, print and save the result.

    Args:
        counted: what ``count`` counts, and so the name of its flag: ``frames`` of each video, or ``pictures``.
        count, rounds: the defaults of the flags.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument(f"--{counted}", dest="count", type=int, default=count)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="kdsr_bench_") as folder:
        result = report(args.videos, args.count, args.rounds, Path(folder))
    print(json.dumps(result, indent=1))
    save(args.out, result)
