"""`kdsr check -opt FILE`: find every fault of an option file, and run a sample through each part, without training."""

from __future__ import annotations

import argparse
import json

from kdsr_arch.commands.common import add_option_file, bring_in_named, load, load_parts
from kdsr_arch.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to check, or what to explain."""
    add_option_file(parser, required=False)
    text = "tell what an option (train.optim_g.lr, gt_size) or a class (EDVR) takes"
    parser.add_argument("--explain", metavar="KEY", help=text)
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of option files, for editors")
    parser.add_argument("--test", action="store_true", help="check the file for testing rather than for training")
    parser.add_argument("--no-dry-run", action="store_true", help="check the options only: no data, no networks")


def run(args: argparse.Namespace) -> int:
    """Check the file and do the dry run, or explain."""
    from kdsr_arch.options import load_yaml

    if args.schema or args.explain:
        return _explain(args)
    if not args.opt:
        raise UserError("kdsr check needs an option file (-opt FILE), --explain KEY or --schema")
    datasets = load_yaml(args.opt).get("datasets")
    if args.test or (datasets and isinstance(datasets, dict) and "train" not in datasets):  # which can only be tested
        load(args, is_train=False)
        print(f"{args.opt}: the options are sound")
        return 0
    parts = [part() for part in load_parts(args)]
    print(f"{args.opt}: the options are sound")
    if imported := dict.fromkeys(file.name for opt in parts for file in opt.imported):
        print(f"imported: {', '.join(imported)}")
    if not args.no_dry_run:
        from kdsr_arch.train.entry import dry_runs

        for text in dry_runs(parts):
            print(text, flush=True)
    return 0


def _explain(args: argparse.Namespace) -> int:
    """Print the schema or what a key or class means, with what the option file and ``--import`` bring in."""
    from kdsr_arch.options import explain, json_schema
    from kdsr_arch.options.load import bring_in_of

    bring_in_named(args)
    if args.opt:
        bring_in_of(args.opt)
    if args.schema:
        print(json.dumps(json_schema(names=True), indent=1))
    if args.explain:
        print(explain(args.explain))
    return 0
