"""`kdsr convert SOURCE FILE -o OUT`: weights of public origin become this project's."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from shlex import quote

from kdsr_arch.commands.common import add_import_flag, bring_in_named
from kdsr_arch.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line of this command takes."""
    parser.add_argument("source", help="where the weights come from; 'list' prints the known sources")
    parser.add_argument("file", type=Path, nargs="?", help="the file to convert (.pth, .pt, .npz, .safetensors)")
    output = "the file to write, NAME.pth, and with it NAME.yml, by which kdsr upscale and kdsr test know the network"
    parser.add_argument("-o", "--output", type=Path, help=output)
    parser.add_argument("--scale", type=int, help="of weights that do not tell theirs")
    add_import_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Convert the file, or list the known sources; exit code 0.

    Raises:
        UserError: no file or output given, weights that are not of this source, or an option file or other weights that
            would be lost.
    """
    from kdsr_arch.convert.published import ANY_SCALE, SOURCES, convert_file, option_text
    from kdsr_arch.io import write_bytes

    bring_in_named(args)
    if args.source == "list":
        for source in SOURCES.values():
            print(f"{source.name:16s}{source.origin} -> {source.arch}")
        return 0
    if args.file is None or args.output is None:
        raise UserError("kdsr convert needs a file and -o OUT: kdsr convert SOURCE FILE -o OUT")
    _check_output(args.output, args.file)
    import torch

    done = convert_file(args.source, args.file, args.scale)
    beside = args.output.with_suffix(".yml")
    text = option_text(done, args.output) if done.scale is not None else None
    if text is not None and beside.exists() and beside.read_bytes() != text.encode():
        raise UserError(
            f"{beside}: exists, and would be replaced by the option file of {args.output.name}; move it away"
        )
    weights = io.BytesIO()
    torch.save({"params": done.params}, weights)
    if args.output.is_file() and args.output.read_bytes() != weights.getvalue():
        raise UserError(f"{args.output}: exists, and would be replaced by other weights; move it away or name another")
    write_bytes(args.output, weights.getvalue())
    count = sum(value.numel() for value in done.params.values())
    print(f"{args.output}: {done.source.origin}, {len(done.params)} entries, {count:,} values")
    print(f"network_g: {done.network_text()}")
    if text is not None:
        write_bytes(beside, text.encode())
        commands = f"kdsr test -opt {quote(str(beside))}, and kdsr upscale --weights {quote(str(args.output))}"
        print(f"{beside}: {commands}")
        if done.source.note not in ("", ANY_SCALE):
            print(f"note: {done.source.note}")
    else:
        print(f"note: {done.source.note or ANY_SCALE}; --scale N also writes {beside.name}, which tells the network")
    return 0


def _check_output(output: Path, file: Path) -> None:
    """Refuse an output that is no file of weights, or the one to convert."""
    if output.suffix != ".pth":
        raise UserError(f"{output}: converted weights are written as .pth (kdsr export makes .safetensors of them)")
    if output.resolve() == file.resolve():
        raise UserError(f"{output}: is the file to convert; choose another name")
