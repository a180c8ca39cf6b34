"""What ``kdsr upscale`` does: checks everything that can be checked before work begins, then upscales."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from kdsr_arch.data.sources import IMAGE_SUFFIXES
from kdsr_arch.device import pick_device
from kdsr_arch.errors import UserError
from kdsr_arch.upscale.chunks import Restorer
from kdsr_arch.upscale.image_file import check_suffix
from kdsr_arch.upscale.images import upscale_file, upscale_folder
from kdsr_arch.upscale.model import Model, open_model
from kdsr_arch.upscale.tiling import TileChoice
from kdsr_arch.upscale.video import VideoOptions, upscale_video
from kdsr_arch.upscale.video_output import FORMATS

_MAX_CRF = 63


def run_upscale(args: argparse.Namespace) -> int:
    """The command: returns its exit code."""
    kind = kind_of(args.input)
    check_output(args.input, args.output, kind, args.overwrite)
    _check_numbers(args)
    tiles = TileChoice(args.tile)
    if args.threads:
        torch.set_num_threads(args.threads)
    model = open_model(
        args.weights,
        args.network,
        scale=args.scale,
        device=_device(args.device),
        precision=args.precision,
        root=args.root,
    )
    print(_describe(model), flush=True)
    restorer = Restorer(model, 0, args.overlap, args.batch)
    _upscale(args, kind, restorer, tiles)
    return 0


def _upscale(args: argparse.Namespace, kind: str, restorer: Restorer, tiles: TileChoice) -> None:
    if kind == "folder":
        count = upscale_folder(
            restorer, args.input, args.output, tiles, sequence=args.sequence, overwrite=args.overwrite
        )
        print(f"{args.output}: {count} images")
        return
    if kind == "image":
        upscale_file(restorer, args.input, args.output, tiles)
        print(f"{args.output}: done")
        return
    options = VideoOptions(args.codec, args.crf, args.preset, args.partial)
    try:
        bar = upscale_video(restorer, args.input, args.output, tiles, options)
    except KeyboardInterrupt:
        print("\ninterrupted: the finished segments are kept; the same command goes on from there", flush=True)
        raise
    rate = (bar.n - bar.initial) / max(bar.format_dict["elapsed"], 1e-9)
    print(f"{args.output}: {bar.n} frames, {rate:.2f} frames/s")


def kind_of(path: Path) -> str:
    """'folder', 'image' or 'video', by what the input is.

    Raises:
        UserError: it does not exist.
    """
    if path.is_dir():
        return "folder"
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder to upscale")
    return "image" if path.suffix.lower() in IMAGE_SUFFIXES else "video"


def check_output(source: Path, target: Path, kind: str, overwrite: bool) -> None:
    """Refuse an output that cannot be, or that is the input.

    Raises:
        UserError: one sentence.
    """
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: the output is the input; choose another name")
    if kind == "folder":
        if target.is_file():
            raise UserError(f"{target}: is a file, but a folder of images was given; name a folder")
        if target.resolve().is_relative_to(source.resolve()):
            raise UserError(f"{target}: lies inside the input folder; choose another place")
        _check_writable(target)
        return
    if target.is_dir():
        raise UserError(f"{target}: is a folder; name the file to write, as in {target / source.name}")
    if kind == "image":
        check_suffix(target)
    elif target.suffix.lower() not in FORMATS:
        raise UserError(f"{target}: '{target.suffix}' is no video format to write; take one of {', '.join(FORMATS)}")
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists; say --overwrite to replace it, or choose another name")
    _check_writable(target.parent)


def _check_writable(folder: Path) -> None:
    """The folder, or the nearest one above it that exists, takes new files; the folder is made where it is missing."""
    existing = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{existing}: not writable; choose another output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror or error})") from None


def _check_numbers(args: argparse.Namespace) -> None:
    for name, low, high in (("overlap", 0, 1024), ("batch", 0, 1024), ("threads", 0, 1024), ("crf", 0, _MAX_CRF)):
        if not low <= getattr(args, name) <= high:
            raise UserError(f"--{name} {getattr(args, name)}: expected {low} to {high}")


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available; take --device cpu")
    return pick_device(0 if name == "cpu" else "auto")


def _describe(model: Model) -> str:
    traits = model.traits
    kind = {
        "image": "an image network",
        "window": f"a video network of {traits.num_frame} frames",
        "recurrent": "a recurrent video network",
    }[traits.mode]
    precision = {"no": "", "fp16": ", fp16", "bf16": ", bf16"}[model.amp]
    return f"{model.label}: x{traits.scale}, {kind}, {traits.color.upper()}, on {model.device.type}{precision}"
