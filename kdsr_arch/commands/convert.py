"""`kdsr convert SOURCE FILE -o OUT`: weights of public origin become this project's."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line of this command takes."""
    parser.add_argument("source", help="where the weights come from; 'list' prints the known sources")
    parser.add_argument("file", type=Path, nargs="?", help="the file to convert (.pth, .pt or .npz)")
    parser.add_argument("-o", "--output", type=Path, help="the file to write ({'params': ...})")


def run(args: argparse.Namespace) -> int:
    """Convert the file, or list the known sources; exit code 0.

    Raises:
        UserError: no file or output given, or weights that are not of this source.
    """
    from kdsr_arch.convert.published import SOURCES, convert_file
    from kdsr_arch.errors import UserError
    from kdsr_arch.io import save_tensors

    if args.source == "list":
        for source in SOURCES.values():
            print(f"{source.name:14s}{source.origin} -> {source.arch}")
        return 0
    if args.file is None or args.output is None:
        raise UserError("kdsr convert needs a file and -o OUT: kdsr convert SOURCE FILE -o OUT")
    done = convert_file(args.source, args.file)
    if not args.output.parent.is_dir():
        raise UserError(f"{args.output.parent}: no such folder to write {args.output.name} in")
    save_tensors({"params": done.params}, args.output)
    count = sum(value.numel() for value in done.params.values())
    print(f"{args.output}: {done.source.origin}, {len(done.params)} entries, {count:,} values")
    print("network_g: {" + ", ".join(f"{key}: {value}" for key, value in done.network.items()) + "}")
    if done.source.note:
        print(f"note: {done.source.note}")
    return 0
