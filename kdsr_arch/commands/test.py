"""`kdsr test -opt FILE`: BasicSR's testing command, through our evaluator."""

from __future__ import annotations

import argparse

from kdsr_arch.commands.common import add_run_flags, load

add_arguments = add_run_flags


def run(args: argparse.Namespace) -> int:
    """Check the options, then test."""
    opt = load(args, is_train=False)
    from kdsr_arch.evaluate import tester as test
    from kdsr_arch.options.load import telling_needs

    with telling_needs(opt):
        return test.main(opt, args)
