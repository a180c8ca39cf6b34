"""`kdsr demo`: train and compare on the demo clips, and write a page about it."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line of this command takes."""
    parser.add_argument("-o", "--output", type=Path, help="folder of the page and its pictures (default: results/demo)")
    parser.add_argument("--iterations", type=int, help="train this long instead of the option files' budget")


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    from kdsr_arch.demo.students import run_demo

    run_demo(args.output, args.iterations)
    return 0
