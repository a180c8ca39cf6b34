"""The command line: ``kdsr train | test | check | ...``.

Each command is a module of `kdsr_arch.commands` with ``add_arguments(parser)`` and ``run(args) -> int``; it is imported
only when its command is asked for, so that the first line appears at once.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kdsr_arch import __version__
from kdsr_arch.errors import UserError, printable, tell_os_error
from kdsr_arch.signals import Ended, ending_on_signals, outlive_readers

_FIRST = ("train", "test", "check", "demo")


def _summary(path: Path) -> str:
    """Return the first line of a module's docstring, without importing it: "`kdsr NAME FILE`: what it does"."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0].partition("`: ")[2].rstrip(".").replace("%", "%%")


def commands() -> dict[str, str]:
    """Return every command with its help, from the modules of `kdsr_arch.commands`."""
    files = (Path(__file__).parent / "commands").glob("*.py")
    modules = {path.stem.replace("_", "-"): path for path in files if path.stem not in ("__init__", "common")}
    return {name: _summary(modules[name]) for name in [*_FIRST, *sorted(set(modules) - set(_FIRST))]}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the parser with the arguments of `command` only: those of others would have to be imported."""
    parser = argparse.ArgumentParser(prog="kdsr", description="Knowledge distillation for super-resolution.")
    parser.add_argument("--version", action="version", version=f"KDSR {__version__}")
    children = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in commands().items():
        child = children.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        if name == command:
            module = importlib.import_module(f"kdsr_arch.commands.{name.replace('-', '_')}")
            module.add_arguments(child)
            child.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run the console script.

    Args:
        argv: the words behind the program's name; those of the process by default.
        root: the folder for experiments/ and results/ unless ``--root`` names one (BasicSR's launchers give theirs).

    Returns:
        The exit code: 0; 2 for bad input; 130, 143 or 129 after an interrupt, SIGTERM or SIGHUP; what the command
        returns.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in words if not word.startswith("-")), None)
    outlive_readers(results=command != "train")
    args = build_parser(command).parse_args(words)
    if getattr(args, "root", None) is None:
        args.root = root
    first = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"  # of many processes only this one speaks
    if not first:
        logging.getLogger("kdsr").setLevel(logging.ERROR)
    try:
        if first and getattr(args, "opt", None):
            print(f"KDSR {__version__}: reading {args.opt}", flush=True)  # before anything heavy is imported
        with ending_on_signals():
            return int(args.run(args) or 0)
    except UserError as error:
        message, reported = str(error), error.reported
    except OSError as error:
        sentence = tell_os_error(error)
        if sentence is None:
            raise
        message, reported = sentence, getattr(error, "reported", None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Ended as ended:
        return int(ended.code or 0)
    sys.stdout.flush()
    if not reported:  # by another process of the job
        print(f"error: {printable(message)}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
