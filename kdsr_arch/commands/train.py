"""`kdsr train -opt FILE`: BasicSR's training command, through our loop."""

from __future__ import annotations

import argparse

from kdsr_arch.commands.common import add_run_flags, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """BasicSR's flags."""
    add_run_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Check the options, then train."""
    opt = load(args, is_train=True)
    from kdsr_arch.engine import train
    from kdsr_arch.engine.needs import telling_needs

    with telling_needs(opt):
        return train.main(opt, args)
