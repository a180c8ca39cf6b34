"""`kdsr upscale INPUT -o OUTPUT`: upscale an image, a folder of images or a video with trained weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdsr_arch.commands.common import add_import_flag, bring_in_named
from kdsr_arch.commands.specialize import TEACHING, add_teaching, student_for_upscaling
from kdsr_arch.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line of this command takes."""
    add = parser.add_argument
    add("input", type=Path, help="an image, a folder of images, or a video (mp4, mkv, mov, ...)")
    text = "the file or folder to write; its suffix gives the format (.mp4, .mkv, .png, ...)"
    add("-o", "--output", type=Path, required=True, help=text)
    add("--overwrite", action="store_true", help="replace what is there")
    text = "a folder's images are the frames of one clip: video networks see their neighbors"
    add("--sequence", action="store_true", help=text)
    text = "of images in lossy formats, 1 to 100 (default: 95, and lossless WebP)"
    add("--image-quality", type=int, metavar="N", help=text)

    add = parser.add_argument_group("network").add_argument
    text = "a .pth, .safetensors or .onnx file, or the name of shipped weights or of a file in "
    text += "experiments/pretrained_models (default: a shipped student)"
    add("--weights", metavar="FILE|NAME", help=text)
    text = "the shipped student: fast (20,000 parameters), balanced (50,000, the default), "
    text += "or video (182,000), which sees the frames around"
    add("--quality", choices=["fast", "balanced", "video"], help=text)
    text = "the network of the weights, as YAML text or file, where no .yml lies beside them"
    add("--network", metavar="YAML", help=text)
    add("--scale", type=int, help="take the shipped student of this scale, or refuse weights of another one")
    add("--outscale", type=int, metavar="N", help="enlarge by N: what the network makes is resized (MATLAB's bicubic)")

    add_import_flag(parser)
    text = "teach the student on this input first, by this teacher (several times: their mean); see kdsr specialize"
    add("--specialize", action="append", metavar="FILE|NAME", help=text)

    add = parser.add_argument_group("computing").add_argument
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to run (default: auto)")
    text = "auto: fp16 on CUDA, fp32 on the CPU"
    add("--precision", choices=["auto", "fp32", "fp16", "bf16"], default="auto", help=text)
    text = "side of a tile in LR pixels; 0 or auto: whole frames, in tiles where memory runs out"
    add("--tile", default="auto", metavar="N", help=text)
    add("--overlap", type=int, default=32, metavar="N", help="LR pixels a tile sees beyond its edges")
    add("--batch", type=int, default=0, metavar="N", help="frames at once (default: chosen)")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads of the network")

    add = parser.add_argument_group("video").add_argument
    text = "encoder: libx264 (default), libx265, libsvtav1, libvpx-vp9, mpeg4; ffv1, prores_ks, qtrle keep transparency"
    add("--codec", help=text)
    add("--crf", type=int, default=16, help="quality, lower is better (default: 16)")
    add("--preset", default="veryfast", help="speed of libx264 and libx265 (default: veryfast)")
    add("--partial", action="store_true", help="upscale what can be decoded of a truncated or damaged video")
    text = "take frames that the file says to be interlaced as they are"
    add("--progressive", action="store_true", help=text)

    add_teaching(parser)


def run(args: argparse.Namespace) -> int:
    """Upscale the input; the exit code."""
    from kdsr_arch.upscale.dispatch import run_upscale

    bring_in_named(args)
    if args.specialize:
        code, args.weights = student_for_upscaling(args)
        args.network = args.quality = None
        if code:
            return code
    elif stray := [name for name in TEACHING if getattr(args, name)]:
        raise UserError(f"--{stray[0].replace('_', '-')}: goes with --specialize; give the teacher there")
    return run_upscale(args)
