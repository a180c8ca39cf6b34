"""What distillation costs: one training step of STD on VESPCN from EDVR against a bare loop over the same networks.

    python -m benchmarks.distill_overhead [--terms sd|light|published] [--preset paper|demo] [--steps 10] [--device cpu]
    python -m benchmarks.distill_overhead --options options/train_std.yml      # networks, clips and terms of that file
    python -m benchmarks.distill_overhead --pairs --options options/train_std.yml --downsample 4 8 --out FILE

The bare loop is the least that any distillation needs: the teacher's forward under no_grad, the student's forward and
backward with the pixel loss, and the optimizer's step. Both run alternately in the same process, on the same data in
memory, in the same dtype. Printed: the best of their times, its ratio, and the median of the ratios of neighboring
steps. On the CPU the time is that of the process, which other programs on the machine disturb less than the clock.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.record import save
from kdsr_arch.device import autocast
from kdsr_arch.distill.task import DistillTask
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.options.schema import TeacherOptions
from kdsr_arch.options.schema_train import TrainOptions
from kdsr_arch.registry import build

TERMS = {
    "sd": {"spatial": {"type": "SpatialAttentionLoss", "at": "f_sr", "loss_weight": 1e-3}},
    "published": {
        "spatial": {"type": "SpatialAttentionLoss", "at": "f_sr", "loss_weight": 1e-3},
        "temporal": {"type": "TemporalMemoryLoss", "at": "f_sr", "loss_weight": 0.1},
    },
    "light": {
        "spatial": {"type": "SpatialAttentionLoss", "at": "f_sr", "loss_weight": 1e-3},
        "temporal": {
            "type": "TemporalMemoryLoss",
            "at": "f_sr",
            "loss_weight": 0.1,
            "lstm": "frozen",
            "downsample": 4,
            "hidden": 32,
            "padding": "replicate",
            "normalize": "teacher_rms",
        },
    },
}
PIXEL = {"type": "CharbonnierLoss", "eps": 1e-12}
STUDENTS = {  # the published sizes
    "VESPCN": {"type": "VESPCN"},
    "VSRNet": {"type": "VSRNet"},
    "FastDVDnet": {"type": "FastDVDnet"},
}
TEACHERS = {
    "EDVR-M": {"type": "EDVR"},
    "EDVRSlim": {
        "type": "EDVRSlim",
        "num_feat": 32,
        "num_hr_feat": 32,
        "num_frame": 5,
        "deformable_groups": 4,
        "num_extract_block": 3,
        "num_reconstruct_block": 10,
    },
}
NETWORKS = {  # student, teacher, LR size
    "paper": ({}, {}, 32),
    "demo": (
        {"num_feat": 16, "num_hr_feat": 16},
        {"num_feat": 32, "deformable_groups": 4, "num_extract_block": 2, "num_reconstruct_block": 3},
        32,
    ),
}


def network(spec: dict[str, Any]) -> nn.Module:
    """The registered network of that type."""
    return build("network", spec, "network")


def pair_of(preset: str) -> tuple[nn.Module, nn.Module, int]:
    """Student, teacher and LR crop of a preset."""
    student, teacher, size = NETWORKS[preset]
    return (
        network({"type": "VESPCN", **student}),
        network({"type": "EDVR", **teacher}),
        size,
    )


def from_options(path: str, args: argparse.Namespace) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """Student, teacher and terms of an option file; its batch and clips replace those of ``args``."""
    options = yaml.safe_load(Path(path).read_text())
    data, terms = options["datasets"]["train"], options["train"]["distill_opt"]
    args.batch, args.clip, args.size = data["batch_size_per_gpu"], data["clip_length"], data["gt_size"] // 4
    for term in terms.values():  # the lasting cost: a pretrained ConvLSTM is a frozen one for all but the first steps
        if term.pop("pretrain_iters", None):
            term["lstm"] = "frozen"
    return (
        network(options["network_g"]),
        network(options["network_t"]),
        terms,
    )


def bare_step(student: nn.Module, teacher: nn.Module, lq: Tensor, gt: Tensor, amp: str) -> Callable[[], None]:
    """Run the least that a step of distillation does."""
    optimizer = torch.optim.Adam(student.parameters(), 1e-4)
    ours, theirs = (Runner(net, traits_of(net, 4)) for net in (student, teacher))
    clip, pixel = gt.shape[1], build("loss", PIXEL, "pixel_opt")

    def step() -> None:
        with torch.no_grad(), autocast(lq.device, amp):
            theirs.forward(lq, clip)
        optimizer.zero_grad(set_to_none=True)
        with autocast(lq.device, amp):
            sr = ours.forward(lq, clip)
        pixel(sr.float(), gt).backward()
        optimizer.step()

    return step


def distill_step(task: DistillTask, batch: dict[str, Tensor]) -> Callable[[], None]:
    """Run the step as the training loop does it."""
    optimizer = torch.optim.Adam([*task.student.parameters(), *task.train_only_parameters()], 1e-4)
    iteration = 0

    def step() -> None:
        nonlocal iteration
        iteration += 1
        task.set_stage(iteration)
        optimizer.zero_grad(set_to_none=True)
        output = task(batch, iteration)
        torch.stack(list(output.losses.values())).sum().backward()
        optimizer.step()
        task.after_step(output, iteration)

    return step


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one step."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def measure(student: nn.Module, teacher: nn.Module, terms: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Best times of both loops in milliseconds and their ratio."""
    device, size = torch.device(args.device), args.size
    lq = torch.rand(args.batch, args.clip + 4, 3, size, size, device=device)
    gt = torch.rand(args.batch, args.clip, 3, 4 * size, 4 * size, device=device)
    values = {"pixel_opt": PIXEL, "distill_opt": terms, "amp": args.amp}
    options = TrainOptions.model_validate({"total_iter": 1, "optim_g": {"type": "Adam"}, **values})
    batch, of_teacher = {"lq": lq, "gt": gt}, TeacherOptions(amp=args.amp)
    task = DistillTask(student, teacher, options, batch, scale=4, teacher_options=of_teacher).train()
    steps = [bare_step(student, teacher, lq, gt, args.amp), distill_step(task, batch)]
    for step in steps:
        timed(step, device)
    pairs = [[timed(step, device) for step in steps] for _ in range(args.steps)]
    bare, full = (min(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    return {
        "bare_ms": round(bare * 1e3, 1),
        "distillation_ms": round(full * 1e3, 1),
        "ratio": round(full / bare, 3),
        "median_of_pairs": round(ratio, 3),
    }


def every_pair(args: argparse.Namespace) -> dict[str, Any]:
    """Measure each student of STUDENTS under each teacher of TEACHERS, with the terms of ``args.options``."""
    figures = {}
    sizes = args.downsample or [from_options(args.options, args)[2]["temporal"].get("downsample", 1)]
    walk = itertools.product(STUDENTS.items(), TEACHERS.items(), sizes)
    for (student, ours), (teacher, theirs), downsample in walk:
        terms = from_options(args.options, args)[2]
        terms["temporal"]["downsample"] = downsample
        if student != "VESPCN":  # the others have no motion of their own to train
            terms.pop("motion", None)
        what = f"{student} <- {teacher}, downsample {downsample}"
        figures[what] = report(what, measure(network(ours), network(theirs), terms, args), args)
    return figures


def report(what: str, figures: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Print one measurement and return it."""
    print(
        f"{what}, {args.batch} clip(s) of {args.clip}, LR {args.size}, amp {args.amp}, {args.device}, "
        f"threads: {torch.get_num_threads()}"
    )
    print(
        f"bare {figures['bare_ms']} ms, distillation {figures['distillation_ms']} ms, {figures['ratio']:.3f} x "
        f"(median of pairs {figures['median_of_pairs']:.3f} x)",
        flush=True,
    )
    return figures


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=NETWORKS, default="paper")
    parser.add_argument("--terms", choices=TERMS, default="light")
    parser.add_argument("--options", help="take networks, clips and terms from this file")
    parser.add_argument("--pairs", action="store_true", help="walk the video students and teachers; needs --options")
    parser.add_argument("--downsample", type=int, nargs="+", help="with --pairs: of the temporal term, one or more")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--clip", type=int, default=5)
    parser.add_argument("--size", type=int, help="LR crop")
    parser.add_argument("--amp", choices=("no", "bf16"), default="no")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    if args.pairs and not args.options:
        parser.error("--pairs takes its terms from --options")
    return args


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    if args.pairs:
        figures = every_pair(args)
    elif args.options:
        figures = {args.options: report(args.options, measure(*from_options(args.options, args), args), args)}
    else:
        student, teacher, size = pair_of(args.preset)
        args.size = args.size or size
        what = f"{args.preset} networks, {args.terms} terms"
        figures = {what: report(what, measure(student, teacher, TERMS[args.terms], args), args)}
    protocol = {
        "clips": args.batch,
        "clip_length": args.clip,
        "lr_crop": args.size,
        "amp": args.amp,
        "threads": torch.get_num_threads(),
    }
    save(args.out, {**protocol, **figures}, args.device)


if __name__ == "__main__":
    main()
