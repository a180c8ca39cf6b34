"""`kdsr specialize INPUT --teacher FILE -o STUDENT.pth`: teach a student on the video or images that it will upscale.

The teacher restores a few frames; the student learns from them, and then upscales everything in a fraction of the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdsr_arch.commands.common import add_import_flag, bring_in_named
from kdsr_arch.errors import UserError

if TYPE_CHECKING:
    from kdsr_arch.specialize.carry_out import Request

TEACHING = ("teacher_network", "self_ensemble", "frames", "iters", "minutes", "zoom_share", "fft", "seed", "force")


def add_teaching(parser: argparse.ArgumentParser) -> None:
    """Add what `kdsr specialize` and `kdsr upscale --specialize` have in common."""
    add = parser.add_argument_group("teaching").add_argument
    add("--teacher-network", metavar="YAML", help="the teacher's network, where nothing says it")
    text = "the teacher is the mean over eight flips and rotations: eight times as slow"
    add("--self-ensemble", action="store_true", help=text)
    add("--frames", type=int, metavar="K", help="frames to choose, a fifth of them to measure on (default: 40)")
    add("--iters", type=int, metavar="N", help="teach for so many iterations at most (default: 3,000)")
    add("--minutes", type=float, metavar="M", help="teach for about so long, beside the teacher's own time")
    text = "share of the crops that come from the frames reduced once more, whose truth is known (default: 0)"
    add("--zoom-share", type=float, default=0.0, metavar="S", help=text)
    text = "weight of the L1 of the Fourier transform beside the L1 (0.05 is usual; default: 0)"
    add("--fft", type=float, default=0.0, metavar="W", help=text)
    add("--seed", type=int, default=0, help="of everything random (default: 0)")
    text = "teach although the teacher is not clearly better than the student on this input"
    add("--force", action="store_true", help=text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line of this command takes."""
    add = parser.add_argument
    add("input", type=Path, help="a video, or a folder of frames or images")
    text = "the teacher: a file of weights, the name of shipped ones, or package:NAME/FILE; several times: their mean"
    add("--teacher", action="append", required=True, metavar="FILE|NAME", help=text)
    add("-o", "--output", type=Path, required=True, metavar="STUDENT.pth", help="the student to write")
    add("--student", metavar="FILE|NAME", help="weights to begin with (default: the shipped ones of that scale)")
    add("--student-network", metavar="YAML", help="the student's network, where nothing says it")
    add("--quality", choices=["fast", "balanced"], help="the shipped student to begin with (default: balanced)")
    add("--hr", type=Path, metavar="FILE|FOLDER", help="the same frames in high resolution, to measure on")
    text = "the folder's images are the frames of one clip: video teachers see their neighbors"
    add("--sequence", action="store_true", help=text)
    add("--overwrite", action="store_true", help="begin anew, and replace what is there")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to run (default: auto)")
    text = "of the teacher's forward pass (default: fp16 on CUDA, else fp32); bf16 is fast where the processor has it"
    add("--precision", choices=["auto", "fp32", "fp16", "bf16"], default="auto", help=text)
    add("--progressive", action="store_true", help="take frames that the file says to be interlaced as they are")
    add_import_flag(parser)
    add_teaching(parser)


def run(args: argparse.Namespace) -> int:
    """Teach the student; the exit code."""
    from kdsr_arch.specialize.carry_out import run_specialize
    from kdsr_arch.upscale.dispatch import kind_of

    bring_in_named(args)
    student = {"student": args.student, "student_network": args.student_network, "quality": args.quality}
    return run_specialize(request_of(args, kind_of(args.input, args.sequence), args.output, args.teacher, **student))


def request_of(
    args: argparse.Namespace, kind: str, output: Path, teachers: Sequence[str], *, student: str | None,
    student_network: str | None, quality: str | None,
) -> Request:  # fmt: skip
    """Make a request of the arguments that `kdsr specialize` and `kdsr upscale --specialize` have in common.

    Raises:
        UserError: a student of one's own and the quality of a shipped one.
    """
    from kdsr_arch.specialize.carry_out import Request
    from kdsr_arch.upscale.dispatch import SHIPPED

    if quality and (student or student_network):
        raise UserError("--quality chooses among the shipped students: take it out, or the student's own weights")
    shipped = {scale: name for (known, scale), name in SHIPPED.items() if known == (quality or "balanced")}
    return Request(
        args.input, kind, output, tuple(teachers), args.teacher_network, args.self_ensemble, student, student_network,
        args.frames, args.iters, args.minutes, args.zoom_share, args.fft, args.seed, getattr(args, "hr", None),
        args.sequence, args.progressive, getattr(args, "partial", False), args.force, args.overwrite, args.device,
        args.root, shipped, precision=args.precision,
    )  # fmt: skip


def student_for_upscaling(args: argparse.Namespace) -> tuple[int, str]:
    """Teach the student of `kdsr upscale --specialize`, unless an earlier run of the same command has.

    Returns:
        The exit code, not 0 where a signal came; and the student's file, beside the output.

    Raises:
        UserError: see `run_specialize`; or an output that cannot be.
    """
    from kdsr_arch.specialize.carry_out import run_specialize
    from kdsr_arch.upscale.dispatch import check_output, kind_of, prepare
    from kdsr_arch.upscale.video import VideoOptions, plan_video

    kind = kind_of(args.input, args.sequence)
    check_output(args.input, args.output, kind, args.overwrite)
    prepare(args, kind)
    if kind == "video":
        options = VideoOptions(args.codec, args.crf, args.preset, args.partial)
        plan_video(args.input, args.output, options, args.outscale or args.scale or 4)  # told before hours of teaching
    output = args.output.with_name(f"{args.output.stem}_student.pth")
    own = {"student": args.weights, "student_network": args.network, "quality": args.quality}
    request = request_of(args, kind, output, args.specialize, **own)
    return run_specialize(replace(request, reuse=True, scale=args.scale)), str(output)
