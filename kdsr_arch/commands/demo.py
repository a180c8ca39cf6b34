"""`kdsr demo`: train and compare on the demo clips, and write a page about it."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the results go, and how long to train."""
    parser.add_argument("-o", "--output", type=Path, help="folder of the page and its pictures (default: results/demo)")
    parser.add_argument("--iterations", type=int, help="train this long instead of the option files' budget")
    parser.add_argument("--root", type=Path, help="the project's folder, which holds options/ (default: found)")


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    from kdsr_arch.demo.students import run_demo

    root = find_root(args.root)
    run_demo(root, args.output or root / "results" / "demo", args.iterations)
    return 0


def find_root(named: Path | None) -> Path:
    """The folder that holds the demo's option files: the one named, the current one, or the source tree's."""
    from kdsr_arch.demo.students import TAUGHT
    from kdsr_arch.errors import UserError

    for folder in [named] if named is not None else [Path.cwd(), Path(__file__).resolve().parents[2]]:
        if (folder / TAUGHT).is_file():
            return folder.resolve()
    raise UserError(
        f"the demo needs {TAUGHT}, which is not in {named or Path.cwd()}: run it in the project's folder, "
        "or name that with --root"
    )
