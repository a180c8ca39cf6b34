"""`kdsr plot DIR...`: draw the training curves of experiments."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdsr_arch.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line of this command takes."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="experiments/NAME")
    parser.add_argument("-o", "--output", type=Path, default=Path("plot.png"), help="the PNG to write (plot.png)")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="labels in place of the folders' names")
    parser.add_argument("--metric", default="psnr", help="what to draw (default: psnr)")
    parser.add_argument("--loss", default="l_pix", help="training quantity beside the curves (default: l_pix)")
    parser.add_argument("--dataset", help="validation set (default: the first)")


def run(args: argparse.Namespace) -> int:
    """Draw the picture and print where it is; exit code 0.

    Raises:
        UserError: a folder without a history.jsonl, or a metric that was not measured.
    """
    from kdsr_arch.data.keys import label_folders
    from kdsr_arch.report.training_curves import plot_curves

    if args.output.suffix.lower() != ".png":
        raise UserError(f"{args.output}: plots are written as .png")
    folders = dict(zip(label_folders(args.folders, args.names), args.folders, strict=True))
    print(plot_curves(folders, args.output, metric=args.metric, dataset=args.dataset, loss=args.loss))
    return 0
