"""The flags that training and testing share with BasicSR."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kdsr_arch.io import option_file

if TYPE_CHECKING:
    from kdsr_arch.options import Options
    from kdsr_arch.plugins import Plugin

LAUNCHERS = ("none", "pytorch", "slurm")


def add_option_file(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``-opt`` and ``--force_yml``."""
    text = "the option file (YAML); options/NAME.yml finds a shipped one from any folder"
    parser.add_argument("-opt", "--opt", type=option_file, required=required, metavar="FILE", help=text)
    text = "set single options, such as train:total_iter=1000 (the value is YAML; null takes the key out)"
    parser.add_argument("--force_yml", nargs="+", action="extend", default=[], metavar="KEY:SUB=VALUE", help=text)
    add_import_flag(parser)


def add_import_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--import``."""
    text = "import a module or file of your own, which registers networks, losses, data sets, metrics or models"
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE|FILE", help=text)


def imported_by(args: argparse.Namespace) -> list[Plugin]:
    """Find what ``--import`` names, from the current folder.

    Raises:
        UserError: a file is not there.
    """
    from kdsr_arch.plugins import named

    return [plugin for entry in args.imports for plugin in named(entry, [Path.cwd()], f"--import {entry}")]


def bring_in_named(args: argparse.Namespace) -> None:
    """Import what ``--import`` names, for a command that takes no option file, or is given none.

    Raises:
        UserError: it is not there or cannot be imported.
    """
    if args.imports:
        from kdsr_arch.registry import bring_in

        bring_in(imported_by(args))


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a run: BasicSR's, and ``--root``."""
    add_option_file(parser)
    add = parser.add_argument
    add("--launcher", choices=LAUNCHERS, default="none", help="how processes are started")
    add("--debug", action="store_true", help="validate and save every 8 iterations, as debug_NAME")
    add("--auto_resume", action="store_true", help="training: go on from the newest whole state, if there is one")
    add("--local_rank", "--local-rank", type=int, default=0, help="set by some launchers; not needed")
    text = "where experiments/ and results/ go (default: the option file's project)"
    add("--root", type=Path, metavar="DIR", help=text)


def load(args: argparse.Namespace, *, is_train: bool) -> Options:
    """Load the options that the flags describe."""
    from kdsr_arch.options import load_options

    debug = getattr(args, "debug", False)
    return load_options(
        args.opt, is_train=is_train, force=args.force_yml, debug=debug, root=args.root, imports=imported_by(args)
    )


def load_parts(args: argparse.Namespace) -> list[Callable[[], Options]]:
    """Load what `kdsr train` trains, in order, all checked: each gives the options when its turn has come."""
    from kdsr_arch.options import complete, read_parts

    debug, root = getattr(args, "debug", False), getattr(args, "root", None)
    options = partial(complete, is_train=True, path=args.opt, debug=debug, root=root, imports=imported_by(args))
    documents = read_parts(args.opt, args.force_yml)
    checked = [options(document) for document in documents]
    if len(documents) == 1:
        return [lambda: checked[0]]
    return [partial(options, document) for document in documents]
