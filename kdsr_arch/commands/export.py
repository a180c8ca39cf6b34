"""`kdsr export WEIGHTS -o FILE`: write a student in the form of where it is to run, and check it there."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsr_arch.commands.common import add_import_flag, bring_in_named
from kdsr_arch.errors import UserError

if TYPE_CHECKING:
    from kdsr_arch.infer.open import Opened


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to export, and as what."""
    add = parser.add_argument
    add("weights", help="the student's weights: a .pth or .safetensors file, or the name of shipped ones")
    text = (
        "ends in .onnx, .safetensors, .pt2 (ExportedProgram), .glsl (for mpv), .xml (OpenVINO), .param (ncnn), .tflite "
        "(LiteRT, in int8) or .html (a page that upscales in the browser)"
    )
    add("-o", "--output", type=Path, metavar="FILE", required=True, help=text)
    names = ("onnx", "exported", "safetensors", "glsl", "openvino", "ncnn", "tflite", "web")
    add("--target", choices=names, help="what the file is for (default: what its ending says)")
    text = "the option file that names the network (default: the one of the weights' experiment)"
    add("-opt", "--option-file", type=Path, metavar="FILE", help=text)
    add("--network", metavar="YAML", help="the network itself, such as '{type: FSRCNN, scale: 4}'")
    add_import_flag(parser)
    add("--scale", type=int, help="of networks that do not know their own")
    add("--param-key", help="params or params_ema (default: the averaged ones where there are any)")
    add("--fp16", action="store_true", help="compute in half precision; inputs stay float32")
    text = "quantize (ONNX, tflite), calibrated on HR frames of a folder or LMDB; what was trained in int8 is measured"
    add("--int8", type=Path, metavar="FRAMES", help=text)
    add("--max-loss", type=float, metavar="DB", help="PSNR that --int8 may lose; more is not written (default: 0.5)")
    add("--opset", type=int, help="of ONNX (default: 18)")
    text = "LR size that the file is for, such as 320x180, where it names one (ONNX: any; tflite, web: default 320x180)"
    add("--size", metavar="WxH", help=text)
    add("--frames", type=int, help="clip length of a recurrent network, which the file fixes")
    add("--keep-form", action="store_true", help="do not fold away what only training needs")


def run(args: argparse.Namespace) -> int:
    """Export, compare, tell."""
    from kdsr_arch.convert.recognize import open_any
    from kdsr_arch.export.form import prepare
    from kdsr_arch.export.formats import OPSET
    from kdsr_arch.export.int8 import price_of_rounding, quantize
    from kdsr_arch.export.targets import IN_INT8, TARGETS, target_of

    kind, opset = target_of(args.output, args.target), args.opset or OPSET
    _check(args, kind)
    size = {} if args.size is None else {"size": _size(args.size)}
    bring_in_named(args)
    student = open_any(
        args.weights, args.network, args.scale, option_file=args.option_file, scale=args.scale,
        param_key=args.param_key, root=args.root,
    )  # fmt: skip
    _check_student(args, student)
    reparam = not args.keep_form and kind != "safetensors"  # which holds the weights as they were trained
    prepared = prepare(student, half=args.fp16, frames=args.frames, reparam=reparam)
    if prepared.precision == "int8" and kind not in IN_INT8:
        raise UserError(f"{kind}: computes in floats, and {student.label} in int8; export the student it was made of")
    more: dict[str, Any] = size | ({"opset": opset} if kind == "onnx" else {})
    max_loss = {} if args.max_loss is None else {"max_loss": args.max_loss}
    price = price_of_rounding(prepared, args.int8, args.output, **max_loss) if prepared.precision == "int8" else None
    if args.int8 is not None and price is None:
        price = quantize(prepared, args.int8, args.output, **more, **max_loss)
    else:
        for deviation in TARGETS[kind](prepared, args.output, **more):
            print(deviation)
    if price is not None:
        print(price)
    for change in prepared.changes:
        print(f"reparametrized: {change}")
    said = f", opset {opset}" if kind == "onnx" else ""
    kib = args.output.stat().st_size / 2**10
    print(f"{args.output}: {kind}{said}, {student.network['type']} x{student.traits.scale}, {kib:.0f} KiB")
    return 0


def _check(args: argparse.Namespace, kind: str) -> None:
    """Refuse flags that do not fit the target or each other, and a file that cannot be written."""
    from kdsr_arch.export.targets import SIZED

    if args.int8 is not None and (kind not in ("onnx", "tflite") or args.fp16):
        raise UserError(
            "--int8 makes an .onnx or .tflite file of its own precision: leave --fp16 out, and let its name end so"
        )
    if args.size is not None and (kind not in SIZED or (kind == "onnx" and args.int8 is not None)):
        raise UserError(
            f"--size {args.size}: this file takes any size; only .onnx (without --int8), .tflite and .html name one"
        )
    if args.max_loss is not None and (args.int8 is None or not args.max_loss >= 0):
        raise UserError(f"--max-loss {args.max_loss:g}: is what --int8 may lose in dB, 0 or more")
    if args.opset is not None and (kind != "onnx" or not 18 <= args.opset <= 23):
        raise UserError(f"--opset {args.opset}: expected 18 to 23, for a file that ends in .onnx")
    if Path(args.weights).resolve() == args.output.resolve():
        raise UserError(f"{args.output}: is the file of weights itself; choose another name")


def _check_student(args: argparse.Namespace, student: Opened) -> None:
    """Refuse what is no student to export, and flags that do not fit it."""
    if not student.network:
        raise UserError(f"{student.weights}: is an exported network already")
    if args.frames is not None and (student.traits.mode != "recurrent" or args.frames < 1):
        raise UserError(f"--frames {args.frames}: is the clip length of a recurrent network, 1 or more")


def _size(text: str) -> tuple[int, int]:
    """Read WxH as height and width."""
    width, cross, height = text.lower().partition("x")
    if (
        not cross
        or not (width.isdecimal() and height.isdecimal())
        or not all(8 <= int(side) <= 8192 for side in (width, height))
    ):
        raise UserError(f"--size {text}: must be WxH, such as 320x180, in LR pixels from 8 to 8192")
    return int(height), int(width)
