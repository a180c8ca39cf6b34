"""`kdsr compare DIR...`: one HTML page to compare the pictures of results folders, with metrics and difference maps."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdsr_arch.commands.common import add_import_flag, bring_in_named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line of this command takes."""
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="DIR", help="results of kdsr test, or folders of images and clips")
    add("-o", "--output", type=Path, default=Path("compare.html"), help="the page (compare.html)")
    gt = (
        "ground truth: a folder or an LMDB store, or one for each test set (default: what the results were tested with)"
    )
    add("--gt", action="append", default=[], metavar="[SET=]DIR", help=gt)
    add("--names", nargs="+", metavar="NAME", help="names in place of the folders'")
    metrics = "psnr, ssim (Y channel), psnr_rgb, ssim_rgb, a registered metric, or one of pyiqa's (lpips, dists, ...); "
    metrics += "the first one orders the images"
    add("--metrics", nargs="+", default=["psnr", "ssim"], metavar="METRIC", help=metrics)
    add_import_flag(parser)
    add("--crop-border", type=int, default=0, metavar="N", help="pixels left out at the edges")
    limit = "images on the page: worst, best and most differing ones; all are in the table"
    add("--limit", type=int, default=24, metavar="N", help=limit)
    add("--line", type=int, metavar="ROW", help="row of the temporal profiles (default: most motion)")
    add("--title", default="Comparison", help="heading of the page")


def run(args: argparse.Namespace) -> int:
    """Write the page and print where it is; exit code 0."""
    from kdsr_arch.report.compare_page import write_comparison

    bring_in_named(args)
    page = write_comparison(
        args.folders, args.output, gt=args.gt, names=args.names, metrics=args.metrics, crop_border=args.crop_border,
        limit=args.limit, line=args.line, title=args.title,
    )  # fmt: skip
    print(f"{page}: {page.stat().st_size / 2**20:.1f} MiB; open it in a browser")
    return 0
