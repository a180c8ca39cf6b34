"""`kdsr new TASK -o FILE`: write an option file to start from, with networks and data of yours or those that ship."""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from kdsr_arch.commands.common import add_import_flag, bring_in_named
from kdsr_arch.errors import UserError

if TYPE_CHECKING:
    from kdsr_arch.infer.open import Opened
    from kdsr_arch.infer.traits import Traits

_STUDENTS: dict[str, dict[str, Any]] = {
    "image": {"type": "PlainSR", "num_feat": 16, "num_block": 5, "act": "prelu", "residual": "bicubic"},
    "video": {"type": "VESPCN", "num_feat": 32, "num_hr_feat": 32, "num_flow_feat": 8, "base": "bicubic"},
}
_TEACHERS = {("image", 4): "PlainSR_x4_50k", ("image", 2): "PlainSR_x2_14k", ("video", 4): "EDVRSlim_x4_demo"}
_SHIPPED_DATA = {  # how `prepare` calls them, and where it puts the parts
    "image": ("images", "datasets/images/{}_GT"),
    "video": ("demo", "datasets/demo/{}_GT.lmdb"),
}
_DATASETS = {"image": "ImagePairDataset", "video": "ClipDataset"}
_SIDE = {"image": 24, "video": 16}  # of a training crop, in LR pixels

_TEXT = """\
# {title}: kdsr check -opt {file}, then kdsr train -opt {file}
name: {name}
model_type: {kind}DistillModel
scale: {scale}
num_gpu: auto
manual_seed: 0
{imports}
datasets:
  train:
    type: {dataset}
{train}    degradation: BI # LR made on the fly by MATLAB's bicubic; or BD, or give dataroot_lq
    gt_size: {gt_size}
{clip}    use_hflip: true
    use_rot: true
    num_worker_per_gpu: 1
    batch_size_per_gpu: {batch}
{val}
network_g: {student} # the student; kdsr list networks
{teacher}
train:
  total_iter: {iterations} # small networks go on learning for 100,000 and more
  ema_decay: 0.999
  optim_g: {{type: Adam, lr: 1e-3, betas: [0.9, 0.99]}}
  scheduler: {{type: CosineAnnealingRestartLR, periods: [{iterations}], restart_weights: [1], eta_min: 1e-6}}
  pixel_opt: {{type: L1Loss, loss_weight: 1.0}}
{terms}
{validation}logger:
  print_freq: 100
  save_checkpoint_freq: {often}
  keep_last: 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task and what is to be distilled."""
    add = parser.add_argument
    add("task", choices=["image", "video"], help="single images, or clips")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="the option file to write, NAME.yml")
    text = "the student: a network's name (kdsr list networks) or YAML such as '{type: FSRCNN, scale: 4}'"
    add("--student", metavar="TYPE|YAML", help=f"{text} (default: a small one)")
    text = "the teacher's weights, as kdsr upscale --weights takes them, or none (default: weights that ship)"
    add("--teacher", metavar="FILE|NAME|none", help=text)
    add("--network", metavar="YAML", help="the teacher's network, where no .yml lies beside its weights")
    add("--data", type=Path, metavar="FOLDER", help="HR images or clips to train on (default: a few that ship)")
    add("--val", type=Path, metavar="FOLDER", help="HR images or clips to validate on")
    add("--scale", type=int, help="enlargement (default: the teacher's, or 4)")
    add("--iterations", type=int, default=20000, metavar="N", help="length of the training (default: 20000)")
    add_import_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file, once its options were found sound.

    Raises:
        UserError: a file that exists, an unknown network, weights that cannot teach, or networks that do not fit.
    """
    from kdsr_arch.io import write_bytes
    from kdsr_arch.options.load import complete
    from kdsr_arch.options.yaml_reader import parse_document

    bring_in_named(args)
    if args.output.exists():
        raise UserError(f"{args.output}: exists; choose another name")
    if args.output.suffix not in (".yml", ".yaml"):
        raise UserError(f"{args.output}: name a file NAME.yml")
    text = _compose(args)
    complete(parse_document(text, str(args.output)), is_train=True, path=args.output)
    write_bytes(args.output, text.encode())
    file = quote(str(args.output))
    print(f"{args.output}: written. Next: kdsr check -opt {file}, then kdsr train -opt {file}")
    return 0


def _compose(args: argparse.Namespace) -> str:
    """Fill in the text for the two networks and the data."""
    from kdsr_arch.infer.traits import traits_of
    from kdsr_arch.options.yaml_reader import in_one_line
    from kdsr_arch.registry import build

    teacher = _teacher(args)
    scale = args.scale or (teacher.traits.scale if teacher else 4)
    student = _student(args, scale)
    nets = [traits_of(build("network", student, "--student"), scale), *([teacher.traits] if teacher else [])]
    if args.task == "image" and (modes := {net.mode for net in nets} - {"image"}):
        raise UserError(f"kdsr new image: one of the networks is of mode {modes.pop()}, for video; take kdsr new video")
    side = _side(args.task, nets)
    shown = [student["type"], f"taught by {teacher.label}" if teacher else "alone"]
    val, validation = _validation(args, scale)
    kind, often = args.task.capitalize(), _often(args.iterations)
    return _TEXT.format(
        title=" ".join(shown), file=quote(args.output.name), name=in_one_line(args.output.stem), kind=kind, scale=scale,
        dataset=_DATASETS[args.task], train=_source(args.task, args.data, "train"), val=val, gt_size=side * scale,
        clip=_clip(args.task, nets), batch={"image": 16, "video": 4}[args.task], student=in_one_line(student),
        teacher=_teacher_text(teacher), iterations=args.iterations, terms=_terms(args.task, nets),
        validation=validation, often=often, imports=_imports(args),
    )  # fmt: skip


def _often(iterations: int) -> int:
    """Return iterations between validations: ten of them, but none after every few steps."""
    return max(iterations // 10, min(iterations, 100))


def _imports(args: argparse.Namespace) -> str:
    """Return the line that names code of one's own: files as they lie beside the option file, modules as they are."""
    folder = args.output.resolve().parent
    names = [os.path.relpath(name, folder) if os.path.exists(name) else name for name in args.imports]
    return f"imports: {json.dumps(names)}\n" if names else ""


def _teacher(args: argparse.Namespace) -> Opened | None:
    from kdsr_arch.convert.recognize import open_any

    if args.teacher == "none":
        return None
    weights = args.teacher or _TEACHERS.get((args.task, args.scale or 4))
    if weights is None:
        raise UserError(f"--scale {args.scale}: no teacher of that scale ships; give --teacher FILE, or --teacher none")
    teacher = open_any(weights, args.network, args.scale)
    if not teacher.network:
        raise UserError(f"--teacher {weights}: an ONNX file cannot teach; give the weights that it was made of")
    if args.scale not in (None, teacher.traits.scale):
        raise UserError(f"--scale {args.scale}: the teacher {teacher.label} enlarges by {teacher.traits.scale}")
    return teacher


def _student(args: argparse.Namespace, scale: int) -> dict[str, Any]:
    """Read the student; a name alone, or the default, is given the scale where its class takes one."""
    from kdsr_arch.infer.open import parsed_network
    from kdsr_arch.registry import keywords_of, lookup

    if args.student and ":" in args.student:
        return parsed_network(args.student, "--student")
    spec = {"type": args.student} if args.student else _STUDENTS[args.task]
    taken = keywords_of(lookup("network", spec["type"])).parameters
    keyword = next((key for key in ("scale", "upscale", "upscale_factor") if key in taken), None)
    return {**spec, **({keyword: scale} if keyword else {})}


def _side(task: str, nets: list[Traits]) -> int:
    """Choose the side of a crop in LR pixels that all networks take."""
    unit = math.lcm(*(net.lr_multiple for net in nets))
    return -(-max(_SIDE[task], *(net.lr_minimum for net in nets)) // unit) * unit


def _clip(task: str, nets: list[Traits]) -> str:
    if task == "image":
        return ""
    length = max([3, *(7 for net in nets if net.mode == "recurrent"), *(net.min_clip for net in nets)])
    window = max(net.num_frame for net in nets)
    return f"    clip_length: {length}\n    num_frame: {window} # the largest window\n    random_reverse: true\n"


def _source(task: str, folder: Path | None, part: str) -> str:
    """Return the lines that say where a data set lies."""
    from kdsr_arch.options.yaml_reader import in_one_line

    if folder is None:
        name, place = _SHIPPED_DATA[task]
        return f"    prepare: {name} # makes the data when they are missing\n    dataroot_gt: {place.format(part)}\n"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images or clips")
    return f"    dataroot_gt: {in_one_line(str(folder.resolve()))}\n"


def _validation(args: argparse.Namespace, scale: int) -> tuple[str, str]:
    """Return the data set to validate on and the section `val`; with data of the user's there is none without his."""
    if args.data and not args.val:
        return "", ""
    metric = f"{{crop_border: {scale}, test_y_channel: true}}".lstrip("{")
    lines = "".join(f"    {name}: {{type: calculate_{name}, {metric}\n" for name in ("psnr", "ssim"))
    source = _source(args.task, args.val, "test")
    dataset = f"  val:\n    type: {_DATASETS[args.task]}\n{source}    degradation: BI\n"
    return dataset, f"val:\n  val_freq: {_often(args.iterations)}\n  metrics:\n{lines}\n"


def _teacher_text(teacher: Opened | None) -> str:
    from kdsr_arch.options.yaml_reader import in_one_line

    if teacher is None:
        return ""
    text, path = f"network_t: {in_one_line(teacher.network)}\n", teacher.weights
    if path is None or "path" in teacher.network:  # it brings its own
        return text
    shipped = Path(__file__).resolve().parents[1] / "weights"
    place = f"package:kdsr_arch/weights/{path.name}" if path.parent == shipped else str(path.resolve())
    key = "  param_key_t: null # the averaged weights where there are any\n"
    return f"{text}\npath:\n  pretrain_network_t: {in_one_line(place)}\n{key}"


def _terms(task: str, nets: list[Traits]) -> str:
    if len(nets) < 2:
        return ""
    lines = ["  distill_opt: # kdsr list methods", "    output: {type: L1Loss, loss_weight: 1.0}"]
    if task == "video" and all("f_sr" in net.taps for net in nets):
        lines.append("    spatial: {type: SpatialAttentionLoss, at: f_sr, loss_weight: {balance: 0.1}}")
    return "\n".join(lines) + "\n"
