"""Carries out ``kdsr upscale``: checks all that can be checked before work begins, then upscales by kind of input."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.convert.recognize import open_any
from kdsr_arch.device import pick_device
from kdsr_arch.errors import UserError, printable
from kdsr_arch.infer.open import Opened
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.infer.traits import ScaleUnknown
from kdsr_arch.locks import claimed
from kdsr_arch.ops.bicubic import imresize, upsample_bicubic
from kdsr_arch.upscale.images import memory_for, upscale_file, upscale_folder
from kdsr_arch.upscale.picture import is_still, picture_suffixes
from kdsr_arch.upscale.picture_output import check_target
from kdsr_arch.upscale.video import VideoOptions, upscale_video
from kdsr_arch.upscale.video_output import FORMATS, check_format

SHIPPED = {  # --quality, and the scale -> weights
    ("fast", 4): "PlainSR_x4_20k",
    ("balanced", 4): "PlainSR_x4_50k",
    ("video", 4): "RLSP_x4_182k",
    ("fast", 2): "PlainSR_x2_14k",
    ("balanced", 2): "PlainSR_x2_14k",
}
_MIN_TILE = 8


def run_upscale(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code: 1 where some images of a folder could not be upscaled."""
    kind = kind_of(args.input, args.sequence)
    check_output(args.input, args.output, kind, args.overwrite)
    # that of a folder lies in it: one may write there and not beside it
    place = args.output / "upscale" if kind == "folder" else args.output
    with claimed(place, "is writing here; wait for it, or choose another output"):
        return _run(args, kind)


def prepare(args: argparse.Namespace, kind: str) -> None:
    """Check what the arguments say, as far as that needs no network, and set the number of threads.

    Raises:
        UserError: a value out of range, or one that is not for this kind of input.
    """
    if args.image_quality is not None and not (kind != "video" and 1 <= args.image_quality <= 100):
        raise UserError(f"--image-quality {args.image_quality}: expected 1 to 100, for images; that of videos is --crf")
    _check_range(args, ("threads", 1024), ("crf", 63))
    _check_tiles(args)
    if args.threads:
        torch.set_num_threads(args.threads)


def _run(args: argparse.Namespace, kind: str) -> int:
    prepare(args, kind)
    restorer, opened = open_restorer(args)
    print(describe(opened, restorer), flush=True)
    with memory_for(str(args.input)):
        return _upscale(args, kind, restorer, fingerprint(opened, restorer.amp))


def open_restorer(args: argparse.Namespace) -> tuple[Restorer, Opened]:
    """Open the network that the arguments mean, with what runs it on frames; `kdsr.load` does as well.

    Args:
        args: `weights` (or an `Opened`), `network`, `quality`, `scale`, `outscale`, `device`, `precision`, `tile`,
            `overlap`, `batch` and `root`, as the command line has them.

    Raises:
        UserError: a value out of range, no such weights, or a network that cannot upscale.
    """
    tile = _check_tiles(args)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available; take --device cpu")
    device, opened = pick_device(0 if args.device == "cpu" else "auto"), args.weights
    if isinstance(opened, Opened):
        opened.net.to(device)
    else:
        what, place = (_weights(args), args.network, args.scale), dict[str, Any](device=device, root=args.root)
        try:
            opened = open_any(*what, **place)
        except ScaleUnknown:
            if args.scale is None:
                raise
            opened = open_any(*what, **place, scale=args.scale)
    _check_network(opened, args.scale)
    amp = choose_amp(args.precision, device, opened)
    if args.outscale is not None:
        opened = rescaled(opened, args.outscale)
    runner = Runner(opened.net, opened.traits)
    runner.name = opened.label  # as the user knows it
    return Restorer(runner, device, amp, tile, args.overlap, args.batch), opened


def _check_tiles(args: argparse.Namespace) -> int:
    """Check how frames are cut and enlarged; return the side of a tile, 0 for whole frames."""
    if args.outscale is not None and not 1 <= args.outscale <= 16:
        raise UserError(f"--outscale {args.outscale}: expected 1 to 16")
    _check_range(args, ("overlap", 1024), ("batch", 1024))
    text = "0" if args.tile == "auto" else args.tile  # whole frames, halved where memory runs out
    if not text.isdigit() or 0 < int(text) < _MIN_TILE:
        raise UserError(f"--tile {text}: expected 'auto', 0 (whole frames) or a side of at least {_MIN_TILE} LR pixels")
    return int(text)


def _check_range(args: argparse.Namespace, *limits: tuple[str, int]) -> None:
    for name, high in limits:
        if not 0 <= getattr(args, name) <= high:
            raise UserError(f"--{name} {getattr(args, name)}: expected 0 to {high}")


def _weights(args: argparse.Namespace) -> str | None:
    """Return the file or name of the weights that the command line means."""
    if args.quality and (args.weights or args.network):
        raise UserError("--quality chooses among the shipped students: take it out, or --weights and --network")
    if args.weights or args.network:
        return args.weights
    wanted = args.quality or "balanced", args.scale or 4
    if wanted not in SHIPPED:
        scales = sorted(scale for quality, scale in SHIPPED if quality == wanted[0])
        if not scales:
            *others, last = dict.fromkeys(quality for quality, _ in SHIPPED)
            raise UserError(f"--quality {wanted[0]}: there are {', '.join(others)} and {last}")
        raise UserError(
            f"--scale {wanted[1]}: the shipped students of quality {wanted[0]} enlarge by "
            f"{', '.join(map(str, scales))}; give --weights"
        )
    return SHIPPED[wanted]


def _upscale(args: argparse.Namespace, kind: str, restorer: Restorer, network: str) -> int:
    if kind == "folder":
        count, failures = upscale_folder(
            restorer, args.input, args.output, sequence=args.sequence, overwrite=args.overwrite, network=network,
            quality=args.image_quality,
        )  # fmt: skip
        print(f"{args.output}: {count} images", flush=True)
        if failures:
            lines = [f"{len(failures)} could not be upscaled:", *failures]
            print(printable("\n  ".join(lines)), file=sys.stderr)
        return 1 if failures else 0
    if kind == "image":
        upscale_file(restorer, args.input, args.output, args.image_quality)
        print(f"{args.output}: done")
        return 0
    options = VideoOptions(args.codec, args.crf, args.preset, args.partial, args.progressive, network=network)
    try:
        bar = upscale_video(restorer, args.input, args.output, options)
    except KeyboardInterrupt:
        print("\ninterrupted: the finished segments are kept; the same command goes on from there", flush=True)
        raise
    rate = (bar.n - bar.initial) / max(bar.format_dict["elapsed"], 1e-9)
    print(f"{args.output}: {bar.n} frames, {rate:.2f} frames/s")
    return 0


def kind_of(path: Path, sequence: bool = False) -> str:
    """Tell what the input is: 'folder', 'image' or 'video'.

    Args:
        path: the input.
        sequence: whether it was said to hold the frames of a clip.

    Raises:
        UserError: it does not exist, or is a file that was said to be a sequence.
    """
    if path.is_dir():
        return "folder"
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder to upscale")
    if sequence:
        raise UserError(f"{path}: is a file, but --sequence is for a folder of frames; name the folder")
    return "image" if path.suffix.lower() in picture_suffixes() or is_still(path) else "video"


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
        if not target.exists() and target.suffix.lower() in {*FORMATS, *picture_suffixes()}:
            raise UserError(
                f"{target}: names a file, but the images of a folder are written into a folder; name one, as in "
                f"{target.with_suffix('')}"
            )
        if target.resolve().is_relative_to(source.resolve()):
            raise UserError(f"{target}: lies inside the input folder; choose another place")
        _check_writable(target)
        return
    if target.is_dir():
        raise UserError(f"{target}: is a folder; name the file to write, as in {target / source.name}")
    if kind == "image":
        check_target(target)
    else:
        check_format(target, source)
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists; say --overwrite to replace it, or choose another name")
    _check_writable(target.parent)


def _check_writable(folder: Path) -> None:
    """Refuse a folder that takes no new files; where it is missing, the nearest one above it that exists."""
    existing = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{existing}: not writable; choose another output")


def _check_network(opened: Opened, scale: int | None) -> None:
    if scale is not None and scale != opened.traits.scale:
        raise UserError(
            f"--scale {scale}: network {opened.label} enlarges by {opened.traits.scale}; leave --scale out or take "
            "weights for that scale"
        )
    if opened.traits.input != "lq":
        raise UserError(f"network {opened.label} is a teacher that is given the ground truth: it cannot upscale")


def choose_amp(precision: str, device: torch.device, opened: Opened) -> str:
    """Choose 'no', 'fp16' or 'bf16' for a network.

    Args:
        precision: 'auto' (fp16 on CUDA, unless the network cannot), 'fp32', 'fp16' or 'bf16'; an ONNX file has its own.

    Raises:
        UserError: fp16 on the CPU.
    """
    if not opened.network:
        if precision not in ("auto", "fp32"):
            raise UserError(f"--precision {precision}: {opened.label} is an ONNX file, which has its own; leave it out")
        return "no"
    if precision == "auto":
        precision = "fp16" if device.type != "cpu" and opened.traits.half else "fp32"
    if precision == "fp32":
        return "no"
    if precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16 needs a CUDA device; on the CPU take fp32 or bf16")
    return precision


def fingerprint(opened: Opened, amp: str) -> str:
    """Make a text that differs between networks, weights and precisions; a resumed video must be of one."""
    return hashlib.sha256(f"{opened.network} {amp} {opened.digest}".encode()).hexdigest()[:16]


def describe(opened: Opened, restorer: Restorer) -> str:
    """Say in a line what runs, and where."""
    traits = opened.traits
    kind = {
        "image": "an image network",
        "window": f"a video network of {traits.num_frame} frames",
        "recurrent": "a recurrent video network",
    }[traits.mode]
    amp = "int8" if opened.network.get("type") == "Int8" else restorer.amp
    precision = "" if amp == "no" else f", {amp}"
    return f"{opened.label}: x{traits.scale}, {kind}, {traits.color.upper()}, on {restorer.device.type}{precision}"


# ---------------------------------------------------------------------------- --outscale: what a network makes, resized


class Rescaled(nn.Module):
    """A network for inference and the resize of what it makes, by MATLAB's bicubic.

    Args:
        opened: the network; its weights are not changed any more.
        scale: the enlargement of both together.
    """

    def __init__(self, opened: Opened, scale: int) -> None:
        super().__init__()
        traits = opened.traits
        runner = Runner(opened.net, traits)
        runner.name = opened.label
        self.net, self.check_size = runner.inference_net(), runner.check_size
        self.enlarge = traits.scale if traits.upsampled_input else 1
        self.factor, self.scale = scale / traits.scale, scale
        self.traits = replace(
            traits, scale=scale, upsampled_input=False, multiple=traits.lr_multiple, min_size=traits.lr_minimum, taps={}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map what the network takes, h x w and not yet enlarged, to frames of (scale * h) x (scale * w)."""
        out = self.net(upsample_bicubic(x, self.enlarge) if self.enlarge > 1 else x)
        self.check_size(out, x)  # the cut below would hide another
        with torch.autocast(out.device.type, enabled=False):
            made = imresize(out.float(), self.factor)
        return made[..., : x.shape[-2] * self.scale, : x.shape[-1] * self.scale]


def rescaled(opened: Opened, scale: int) -> Opened:
    """Let a network enlarge by ``scale``."""
    net = Rescaled(opened, scale).eval()
    return replace(opened, net=net, traits=net.traits, network=opened.network | {"outscale": scale})
