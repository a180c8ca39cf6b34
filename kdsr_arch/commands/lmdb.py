"""`kdsr lmdb create|info|verify|cat|export|convert`: make and look into stores of training frames."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsr_arch.errors import UserError

if TYPE_CHECKING:  # commands start without what they may not need
    from kdsr_arch.data.camera import Camera
    from kdsr_arch.data.prepare.frame_writer import Making

_KINDS = ("auto", "images", "clips", "videos", "reds", "vimeo", "stills")
_OWN: dict[str, dict[str, Any]] = {  # arguments of one kind of source, with what they are where they are not given
    "images": {"patch": 0, "step": 0, "max_side": 0, "min_side": 0, "strip": "", "hold_out": None},
    "clips": {"clips": None},
    "videos": {"exclude": [], "halve": False, "multiple": None},
    "vimeo": {"split": None},
    "stills": {"count": None, "length": None, "size": None, "seed": None, "camera": None},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions, each with its own arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="a store from images, clips, videos, REDS, Vimeo-90K or stills")
    create.add_argument(
        "source", type=Path, nargs="+", help="a folder, or a video file; of images and stills, one or more folders"
    )
    create.add_argument("out", type=Path, help="the store, NAME.lmdb; a folder for REDS and Vimeo-90K")
    create.add_argument("--kind", choices=_KINDS, default="auto", help="what the source is (default: found out)")
    add = create.add_argument
    add("--patch", type=int, help="images: side of sub-images (default: whole images)")
    add("--step", type=int, help="images: distance of sub-images (default: their side)")
    add("--max-side", type=int, help="images: cut larger ones into equal parts of at most about this side")
    add("--min-side", type=int, help="images: leave out those with a smaller side")
    text = "images: every fifth of this folder goes into this store instead, for validation"
    add("--hold-out", type=Path, nargs=2, metavar=("FOLDER", "STORE"), help=text)
    add("--strip", help="images: ending to take off the names, such as x4 for DIV2K's LR")
    add("--clips", nargs="+", help="clips: take these only")
    add("--exclude", nargs="+", help="videos: leave these out")
    add("--halve", action="store_true", help="videos: halve the size, which cleans compressed video")
    add("--multiple", type=int, help="videos: crop sides to multiples of this (default: 4)")
    add("--split", help="Vimeo-90K: the list file sep_SPLITlist.txt (default: train)")
    add("--count", type=int, help="stills: clips to render (default: as many as there are photographs)")
    add("--length", type=int, help="stills: frames of a clip (default: 16)")
    add("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="stills: of the frames (default: 270 480)")
    add("--seed", type=int, help="stills: of the motions (default: 0)")
    text = "stills: bounds of the motion, as in a StillClipDataset's `camera`: shift=4 parallax=0"
    add("--camera", nargs="+", metavar="NAME=NUMBER", help=text)
    create.set_defaults(**{name: value for own in _OWN.values() for name, value in own.items()})
    add_making(create)
    info = actions.add_parser("info", help="what a store holds")
    verify = actions.add_parser("verify", help="read and check every value")
    verify.add_argument("--processes", type=int, help="default: one per core")
    cat = actions.add_parser("cat", help="one frame as PNG")
    export = actions.add_parser("export", help="the frames as image files")
    convert = actions.add_parser("convert", help="the same frames in another format")
    for action in (info, verify, cat, export, convert):
        action.add_argument("store", type=Path, help="NAME.lmdb")
    cat.add_argument("key", help="such as 000/00000012")
    cat.add_argument("-o", "--output", type=Path, help="the PNG file (default: standard output)")
    cat.add_argument("--crop", type=int, nargs=4, metavar=("TOP", "LEFT", "HEIGHT", "WIDTH"), help="a part of it")
    export.add_argument("folder", type=Path, help="where the files go; a new or empty folder")
    for action in (cat, export):
        action.add_argument("--side", default="", help="the LR kept beside the frames, as 'info' names it")
    convert.add_argument("out", type=Path, help="the new store, NAME.lmdb")
    add_making(convert, low=False)


def add_making(parser: argparse.ArgumentParser, low: bool = True) -> None:
    """Add the arguments that say how a store is made."""
    from kdsr_arch.data.store.codec import CODEC_NAMES

    text = "webp: small, the default; raw: fastest, largest; png: whole frames, BasicSR reads it"
    parser.add_argument("--codec", choices=CODEC_NAMES, default="webp", help=text)
    parser.add_argument("--tile", type=int, default=0, help="side of tiles in pixels (default: as suits the frames)")
    if low:
        parser.add_argument("--lr", nargs=2, metavar=("SCALE", "KIND"), help="keep LR beside HR: 4 BI, or 4 BD")
        parser.add_argument("--lr-only", action="store_true", help="write the LR alone, as BasicSR wants it")
        parser.add_argument("--border", default="symmetric", choices=("symmetric", "replicate"), help="MATLAB's border")
    parser.add_argument("--skip-bad", action="store_true", help="leave out and list what cannot be used")
    parser.add_argument("--processes", type=int, help="that decode and encode (default: one per core)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def degradation(args: argparse.Namespace) -> dict[str, Any] | None:
    """Return ``{scale, kind, border}`` as the arguments say, or None."""
    if getattr(args, "lr", None) is None:
        if getattr(args, "lr_only", False):
            raise UserError("--lr-only needs --lr SCALE KIND, such as --lr 4 BI")
        return None
    scale, kind = args.lr
    if not (scale.isascii() and scale.isdecimal()) or int(scale) < 2:
        raise UserError(f"--lr {scale} {kind}: the scale must be a whole number of 2 or more")
    if kind not in ("BI", "BD"):
        raise UserError(f"--lr {scale} {kind}: the kind is BI (MATLAB's bicubic) or BD (Gaussian blur)")
    return {"scale": int(scale), "kind": kind, "border": args.border}


def making_of(args: argparse.Namespace) -> tuple[Any, dict[str, Any] | None]:
    """Return (how to make the store, the LR to write instead of the frames)."""
    from kdsr_arch.data.prepare.frame_writer import Making
    from kdsr_arch.data.store.codec import codec_named

    _check_processes(args)
    low = degradation(args)
    alone = low if getattr(args, "lr_only", False) else None
    codec = codec_named(args.codec, args.tile)
    return Making(codec, None if alone else low, args.skip_bad, args.processes, not args.quiet), alone


def _check_processes(args: argparse.Namespace) -> None:
    if args.processes is not None and args.processes < 1:
        raise UserError(f"--processes {args.processes}: must be 1 or more")


def run(args: argparse.Namespace) -> int:
    """Do the action; return 1 when `verify` finds a fault."""
    from kdsr_arch.data.prepare.plans import convert_store
    from kdsr_arch.data.prepare.store_tools import export
    from kdsr_arch.data.store.lmdb_store import close_all

    try:
        if args.action in _ACTIONS:
            return _ACTIONS[args.action](args)
        if args.action == "export":
            print(f"{args.folder}: {export(args.store, args.folder, args.side)} files")
            return 0
        if args.action == "convert":
            convert_store(args.store, args.out, making_of(args)[0])
        tell_store(args.out if args.action == "convert" else args.store)
        return 0
    finally:
        close_all()


def kind_of(source: Path) -> str:
    """Tell what a folder holds, by the names in it."""
    from kdsr_arch.data.image_file import READABLE, is_shown
    from kdsr_arch.data.prepare.decode_video import VIDEO_SUFFIXES

    if source.is_file():
        return "videos"
    if not source.is_dir():
        raise UserError(f"{source}: no such folder or file")
    if (source / "sequences").is_dir():
        return "vimeo"
    if (source / "train_sharp").is_dir() or (source / "train" / "train_sharp").is_dir():
        return "reds"
    names = [path for path in source.iterdir() if is_shown(path.name)]
    if any(path.suffix.lower() in VIDEO_SUFFIXES for path in names):
        return "videos"
    return "images" if any(path.suffix.lower() in READABLE for path in names) else "clips"


def _create(args: argparse.Namespace) -> int:
    from kdsr_arch.data.prepare import plans

    making, alone = making_of(args)
    source, *more = args.source
    kind = kind_of(source) if args.kind == "auto" else args.kind
    if more and kind not in ("images", "stills"):
        raise UserError(
            f"{more[0]}: several sources are for images and stills, but {source} holds {kind}; convert one at a time"
        )
    if alone and kind in ("videos", "reds", "stills"):
        raise UserError(f"--lr-only is not for {kind}; --lr keeps LR beside HR")
    for other, own in _OWN.items():
        for name, value in own.items():
            if other != kind and getattr(args, name) != value:
                raise UserError(f"--{name.replace('_', '-')} is for {other}, but {source} holds {kind}; leave it out")
    if kind == "images":
        cuts = plans.ImageParts(args.patch, args.step, args.max_side, args.min_side, args.strip)
        _check_parts(args)
        plans.convert_images(args.source, args.out, parts=cuts, hold_out=args.hold_out, degrade=alone, making=making)
    elif kind == "clips":
        plans.convert_clips(source, args.out, only=args.clips, degrade=alone, making=making)
    elif kind == "videos":
        multiple = 4 if args.multiple is None else args.multiple
        parts = {"halved": args.halve, "multiple": multiple, "exclude": args.exclude}
        plans.prepare_video_clips(source, args.out, **parts, making=making)
    elif kind == "reds":
        plans.prepare_reds(source, args.out, making)
    elif kind == "stills":
        _render_stills(args, making)
    else:
        plans.prepare_vimeo(source, args.out, split=args.split or "train", degrade=alone, making=making)
    made = [args.out] if args.out.suffix == ".lmdb" else sorted(args.out.glob("*.lmdb"))
    for store in [*made, *(args.hold_out or [])[1:]]:
        tell_store(store)
    return 0


def _render_stills(args: argparse.Namespace, making: Making) -> None:
    from kdsr_arch.data.prepare.still_clips import Rendering, convert_stills

    given = {"clips": args.count, "length": args.length, "size": args.size and tuple(args.size), "seed": args.seed}
    wanted = {name: value for name, value in given.items() if value is not None}
    convert_stills(args.source, args.out, Rendering(**wanted, camera=_camera(args.camera or [])), making)


def _camera(texts: Sequence[str]) -> Camera:
    """Read ``shift=4 density=1.5,3``; raise UserError for what is no bound of a motion."""
    from kdsr_arch.data.camera import Camera
    from kdsr_arch.options.schema_data import CameraOptions
    from kdsr_arch.options.section import parse_section

    values: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            numbers = [float(number) for number in value.split(",")]
        except ValueError:
            raise UserError(f"--camera {text}: must be NAME=NUMBER, as in shift=4 or density=1.5,3") from None
        values[name] = numbers if len(numbers) > 1 else numbers[0]
    section, faults = parse_section(CameraOptions, values)
    if faults:
        raise UserError(f"--camera {faults[0][0]}: {faults[0][1]}")
    return Camera(**section.plain())


def _check_parts(args: argparse.Namespace) -> None:
    for name in ("patch", "step", "max_side", "min_side"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be 1 or more")
    if args.step and not args.patch:
        raise UserError(f"--step {args.step}: is the distance of sub-images; give their side as well, with --patch")
    if args.patch and args.max_side:
        raise UserError("--patch and --max-side: images are cut in one way; give one of the two")
    if args.lr_only and (args.max_side or args.min_side):
        raise UserError("--max-side and --min-side: measure HR images; keep their LR with --lr, without --lr-only")


def tell_store(store: Path) -> None:
    """Print what a store holds, and what was left out of it."""
    from kdsr_arch.data.prepare.frame_writer import SKIPPED_FILE
    from kdsr_arch.data.prepare.store_tools import describe

    print("\n  ".join([str(store), *describe(store)]))
    if (store / SKIPPED_FILE).is_file():
        lines = (store / SKIPPED_FILE).read_text(encoding="utf-8").splitlines()
        print(f"  left out: {len(lines)} frames, listed in {store / SKIPPED_FILE}")
        for line in lines[:20]:
            print(f"    {line.partition(chr(9))[2]}")


def _verify(args: argparse.Namespace) -> int:
    from kdsr_arch.data.prepare.store_tools import verify
    from kdsr_arch.log import progress_bar

    _check_processes(args)
    with progress_bar(args.store.name) as bar:
        faults = verify(args.store, args.processes, bar.update)
    for fault in faults:
        print(f"{fault.key}: {fault.reason}")
    print(f"{args.store}: {f'{len(faults)} faults' if faults else 'whole'}")
    return 1 if faults else 0


def _cat(args: argparse.Namespace) -> int:
    from kdsr_arch.data.augment import Crop
    from kdsr_arch.data.sources import LmdbSource
    from kdsr_arch.data.store.codec import ImageFileCodec
    from kdsr_arch.io import write_bytes

    if args.output and args.output.suffix.lower() != ".png":
        raise UserError(f"{args.output}: frames are written as .png")
    frame = LmdbSource(args.store, args.side).get(args.key, Crop(*args.crop) if args.crop else None)
    data = ImageFileCodec().encode(frame)
    if args.output:
        write_bytes(args.output, data)
    else:
        sys.stdout.buffer.write(data)
    return 0


_ACTIONS = {"create": _create, "verify": _verify, "cat": _cat}
