"""The request that a command line means."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdsr_arch.errors import UserError
from kdsr_arch.specialize.carry_out import Request, run_specialize
from kdsr_arch.upscale.dispatch import SHIPPED, check_output, kind_of, prepare
from kdsr_arch.upscale.video import VideoOptions, plan_video


def request_of(
    args: argparse.Namespace, kind: str, output: Path, teachers: Sequence[str], *, student: str | None,
    student_network: str | None, quality: str | None,
) -> Request:  # fmt: skip
    """Make a request of the arguments that `kdsr specialize` and `kdsr upscale --specialize` have in common.

    Raises:
        UserError: a student of one's own and the quality of a shipped one.
    """
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
