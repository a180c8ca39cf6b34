"""`kdsr train -opt FILE`: BasicSR's training command, through our loop."""

from __future__ import annotations

import argparse

from kdsr_arch.commands.common import add_run_flags, load_parts

add_arguments = add_run_flags


def run(args: argparse.Namespace) -> int:
    """Check the options, then train: one training, or the parts of a `sequence`."""
    parts = load_parts(args)
    from kdsr_arch.train import entry

    return entry.main(parts, args)
