"""`kdsr card RUN`: write a model card of a run, with protocol, results, controls and option file."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, and what to compare it with."""
    parser.add_argument("experiment", type=Path, metavar="RUN", help="the run's folder, such as experiments/NAME")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the card (default: RUN/README.md)")
    parser.add_argument(
        "--control",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="runs to compare with: the same student alone, other methods",
    )
    parser.add_argument("--license", default="apache-2.0", help="of the weights (default: apache-2.0)")


def run(args: argparse.Namespace) -> int:
    """Read the runs, write the card."""
    from kdsr_arch.errors import UserError
    from kdsr_arch.export.card import read_run, render
    from kdsr_arch.files import write_whole

    text = render(read_run(args.experiment), [read_run(folder) for folder in args.control], args.license)
    path = args.output or args.experiment / "README.md"
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path.parent}: no such folder to write {path.name} in")
    write_whole(path, lambda handle: handle.write(text.encode()))
    print(path)
    return 0
