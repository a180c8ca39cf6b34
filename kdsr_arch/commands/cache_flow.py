"""`kdsr cache-flow -opt FILE [-o STORE.lmdb]`: estimate the training windows' optical flow once, beside the clips.

Then set `datasets.train.flow_cache: STORE.lmdb` in the option file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kdsr_arch.commands.common import add_option_file, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The option file, and where the store goes."""
    add_option_file(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="STORE.lmdb", help="the store to make (default: beside the clips)"
    )


def run(args: argparse.Namespace) -> int:
    """Fill the store."""
    from kdsr_arch.engine.flow_cache import beside_the_clips, fill_flow_store

    args.root = None
    opt = load(args, is_train=True)
    path = args.output or beside_the_clips(opt)
    print(f"{path}: {fill_flow_store(opt, path)}")
    print(f"now set datasets.train.flow_cache: {path}")
    return 0
