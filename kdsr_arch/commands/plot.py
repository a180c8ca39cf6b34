"""`kdsr plot DIR...`: draw training curves of experiments, or PSNR against run time of test results."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from kdsr_arch.errors import UserError


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
    """Draw the picture and print where it is; exit code 0.

    Raises:
        UserError: folders that hold neither histories nor results, or both; a metric that was not measured.
    """
    from kdsr_arch.report.speed_plot import plot_results
    from kdsr_arch.report.training_curves import plot_curves

    folders = _labeled(args.folders, args.names)
    if args.output.suffix.lower() != ".png":
        raise UserError(f"{args.output}: plots are written as .png")
    kind = _kind(args.folders) if args.kind == "auto" else args.kind
    chosen = {"metric": args.metric, "dataset": args.dataset}
    if kind == "curves":
        print(plot_curves(folders, args.output, loss=args.loss, **chosen))
        return 0
    if unknown := set(args.taught) - set(folders):
        raise UserError(f"--taught: {', '.join(sorted(unknown))} is none of {', '.join(folders)}")
    print(plot_results(folders, args.output, taught=args.taught, **chosen))
    return 0


def _labeled(folders: list[Path], names: list[str] | None) -> dict[str, Path]:
    if names is not None and len(names) != len(folders):
        raise UserError(f"--names: {len(names)} names for {len(folders)} folders; give one for each")
    labels = names or [folder.resolve().name for folder in folders]
    if len(set(labels)) < len(labels):
        raise UserError(f"two folders have one name ({', '.join(labels)}); tell them apart with --names")
    return dict(zip(labels, folders, strict=True))


def _kind(folders: Iterable[Path]) -> str:
    """'curves' for folders with a history.jsonl, 'speed' for folders with a results.json."""
    kinds = {}
    for folder in folders:
        if (folder / "results.json").is_file():
            kinds[folder] = "speed"
        elif (folder / "history.jsonl").is_file():
            kinds[folder] = "curves"
        else:
            raise UserError(f"{folder}: holds neither history.jsonl nor results.json: nothing to draw")
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{folder} ({kind})" for folder, kind in kinds.items())
        raise UserError(f"experiments and results do not go in one plot: {listed}; name folders of one kind")
    return next(iter(kinds.values()))
