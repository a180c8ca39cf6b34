"""`kdsr cache-teacher -opt FILE -o STORE.lmdb`: run a slow teacher over the training data once, for training to read.

Then set `datasets.train.teacher_cache: STORE.lmdb` in the option file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kdsr_arch.commands.common import add_option_file, load
from kdsr_arch.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what to store, and how."""
    add_option_file(parser)
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="STORE.lmdb", help="the store to make")
    add("--taps", nargs="*", help="taps to store beside the output (default: those the terms name)")
    text = "restore N crops of gt_size of each image or clip alone, as live training would, instead of whole images: "
    text += "exact for every teacher, those that look at the whole image (channel attention) among them"
    add("--crops", type=int, default=0, metavar="N", help=text)
    text = "restore clips of N frames with a recurrent teacher (default: clip_length, as live training would); samples "
    text += "lie within one of them, and their frames have been taught by all of it"
    add("--frames", type=int, default=0, metavar="N", help=text)
    text = "store taps at HR size as means over K x K pixels, for terms whose `downsample` is a multiple of K"
    add("--pool", type=int, default=1, metavar="K", help=text)
    text = "run the teacher once an image and turn its output with the image (and with time): up to 8 x faster (16 x "
    text += "with random_reverse), and not exact"
    add("--one-orientation", action="store_true", help=text)
    text = (
        "do not measure the gain in steps per second, nor what several networks or teacher.self_ensemble gain in PSNR"
    )
    add("--no-measure", action="store_true", help=text)


def run(args: argparse.Namespace) -> int:
    """Fill the store, then measure the gain."""
    from kdsr_arch.data.loader import open_dataset
    from kdsr_arch.data.store.teacher_store import TeacherStore
    from kdsr_arch.precompute.fill import fill_store, measure_gain, plan_of
    from kdsr_arch.precompute.own_psnr import measure_own_psnr

    for flag, least in (("crops", 0), ("frames", 0), ("pool", 1)):
        if getattr(args, flag) < least:
            raise UserError(f"--{flag} {getattr(args, flag)}: must be {least} or more")
    args.root = None
    opt = load(args, is_train=True)
    plan = plan_of(opt, args.taps, args.crops, args.one_orientation, args.frames, args.pool)
    probe = fill_store(opt, args.output, plan)
    size = sum(file.stat().st_size for file in args.output.iterdir())
    print(f"{args.output}: {size / 2**20:.1f} MiB, orientations: {len(plan.orientations)}")
    if len(plan.orientations) == 1 and args.one_orientation:
        print("flipped and rotated samples get the turned output, which is not quite what the teacher makes of them")
    if probe is not None:
        print(probe)
    if run := TeacherStore(args.output).run:
        print(
            f"clips of {run} frames, shorter ones whole: at both ends the teacher has seen frames on one side only, "
            f"as it does in live training on {run} frames; frames behind a clip's last whole one are not drawn"
        )
    if not args.no_measure:
        live = opt.datasets["train"].model_copy(update={"teacher_cache": None})
        if own := measure_own_psnr(opt, open_dataset(live, "datasets.train")):
            print(own)
        print(measure_gain(opt, args.output))
    print(f"now set datasets.train.teacher_cache: {args.output}")
    return 0
