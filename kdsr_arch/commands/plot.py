"""`kdsr plot DIR...`: draw training curves of experiments, or PSNR against run time of test results."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line of this command takes."""
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="experiments/NAME (curves) or results/NAME (quality against run time)",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("plot.png"), help="the PNG to write (plot.png)")
    parser.add_argument("--kind", choices=["auto", "curves", "speed"], default="auto", help="by what the folders hold")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="labels in place of the folders' names")
    parser.add_argument("--metric", default="psnr", help="what to draw (default: psnr)")
    parser.add_argument("--loss", default="l_pix", help="training quantity beside the curves (default: l_pix)")
    parser.add_argument("--dataset", help="validation or test set (default: the first)")
    parser.add_argument("--taught", nargs="+", default=[], metavar="NAME", help="drawn as stars: distilled students")


def run(args: argparse.Namespace) -> int:
    """Draw the picture and print where it is; exit code 0."""
    from kdsr_arch.report.runs import plot

    path = plot(
        args.folders,
        args.output,
        kind=args.kind,
        names=args.names,
        metric=args.metric,
        loss=args.loss,
        dataset=args.dataset,
        taught=args.taught,
    )
    print(path)
    return 0
