"""`kdsr check -opt FILE`: find every fault of an option file, and run one sample through, without training."""

from __future__ import annotations

import argparse
import json

from kdsr_arch.commands.common import add_option_file, load
from kdsr_arch.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to check, or what to explain."""
    add_option_file(parser, required=False)
    parser.add_argument(
        "--explain", metavar="KEY", help="tell what an option (train.optim_g.lr, gt_size) or a class (EDVR) takes"
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of option files, for editors")
    parser.add_argument("--test", action="store_true", help="check the file for testing rather than for training")
    parser.add_argument("--no-dry-run", action="store_true", help="check the options only: no data, no networks")


def _explain(args: argparse.Namespace) -> int:
    from kdsr_arch.engine.options import explain, json_schema

    if args.schema:
        print(json.dumps(json_schema(), indent=1))
    if args.explain:
        print(explain(args.explain))
    return 0


def _for_testing(args: argparse.Namespace) -> bool:
    """A file without `datasets.train` can only be meant for testing."""
    from kdsr_arch.engine.options import load_yaml

    datasets = load_yaml(args.opt).get("datasets")
    return args.test or (isinstance(datasets, dict) and bool(datasets) and "train" not in datasets)


def run(args: argparse.Namespace) -> int:
    """Explain, or check and do the dry run."""
    if args.schema or args.explain:
        return _explain(args)
    if not args.opt:
        raise UserError("kdsr check needs an option file (-opt FILE), --explain KEY or --schema")
    testing = _for_testing(args)
    opt = load(args, is_train=not testing)
    print(f"{args.opt}: the options are sound")
    if not testing and not args.no_dry_run:
        from kdsr_arch.engine.needs import telling_needs
        from kdsr_arch.engine.train import dry_run

        with telling_needs(opt):
            print(dry_run(opt))
    return 0
