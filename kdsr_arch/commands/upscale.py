"""`kdsr upscale INPUT -o OUTPUT`: upscale an image, a folder of images or a video with trained weights."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line of this command takes."""
    parser.add_argument("input", type=Path, help="an image, a folder of images, or a video (mp4, mkv, mov, ...)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="the file or folder to write; its suffix gives the format (.mp4, .mkv, .png, ...)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    _add_network(parser)
    _add_computing(parser)
    _add_video(parser)
    parser.add_argument(
        "--sequence",
        action="store_true",
        help="a folder's images are the frames of one clip: video networks see their neighbors",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        "--weights",
        metavar="FILE|NAME",
        help="a .pth, .safetensors or .onnx file, or the name of shipped weights or of a file in "
        "experiments/pretrained_models (default: the shipped real-time student)",
    )
    group.add_argument(
        "--network",
        metavar="YAML",
        help="the network of the weights, as YAML text or file, where no .yml lies beside them",
    )
    group.add_argument("--scale", type=int, help="refuse weights of another scale than this")


def _add_computing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("computing")
    group.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to run (default: auto)")
    group.add_argument(
        "--precision",
        choices=["auto", "fp32", "fp16", "bf16"],
        default="auto",
        help="auto: fp16 on CUDA, fp32 on the CPU",
    )
    group.add_argument(
        "--tile",
        default="auto",
        metavar="N",
        help="side of a tile in LR pixels; 0 or auto: whole frames, in tiles where memory runs out",
    )
    group.add_argument("--overlap", type=int, default=32, metavar="N", help="LR pixels a tile sees beyond its edges")
    group.add_argument("--batch", type=int, default=0, metavar="N", help="frames at once (default: chosen)")
    group.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads of the network")


def _add_video(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("video")
    group.add_argument("--codec", help="encoder: libx264 (default), libx265, libsvtav1, libvpx-vp9, ffv1, mpeg4")
    group.add_argument("--crf", type=int, default=16, help="quality, lower is better (default: 16)")
    group.add_argument("--preset", default="veryfast", help="speed of libx264 and libx265 (default: veryfast)")
    group.add_argument("--partial", action="store_true", help="upscale what can be decoded of a truncated video")


def run(args: argparse.Namespace) -> int:
    """Upscale the input; the exit code."""
    from kdsr_arch.upscale.dispatch import run_upscale

    return run_upscale(args)
