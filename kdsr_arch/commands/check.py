"""`kdsr check -opt FILE`: find every fault of an option file, and run one sample through, without training."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from kdsr_arch.commands.common import add_option_file, load, load_parts
from kdsr_arch.errors import UserError

if TYPE_CHECKING:
    from kdsr_arch.options import Options


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
    from kdsr_arch.options import explain, json_schema, load_yaml

    if args.schema:
        print(json.dumps(json_schema(), indent=1))
    if args.explain:
        print(explain(args.explain))
    if args.schema or args.explain:
        return 0
    if not args.opt:
        raise UserError("kdsr check needs an option file (-opt FILE), --explain KEY or --schema")
    datasets = load_yaml(args.opt).get("datasets")
    if args.test or (datasets and isinstance(datasets, dict) and "train" not in datasets):  # which can only be tested
        load(args, is_train=False)
        print(f"{args.opt}: the options are sound")
        return 0
    parts = [part() for part in load_parts(args)]
    print(f"{args.opt}: the options are sound")
    if not args.no_dry_run:
        for number, opt in enumerate(parts):
            _dry_run(opt, parts[:number])
    return 0


def _dry_run(opt: Options, earlier: list[Options]) -> None:
    """Run one sample through a training, unless it waits for weights that an earlier part of the sequence writes."""
    from kdsr_arch.options.load import missing_inputs, telling_needs
    from kdsr_arch.train.entry import dry_run

    missing = [Path(path) for path in missing_inputs(opt)]
    for part in earlier:
        if any((part.folder / "models") in path.parents for path in missing):
            print(f"{opt.name}: no dry run yet, it starts from weights that {part.name} will write")
            return
    with telling_needs(opt):
        print(dry_run(opt))
