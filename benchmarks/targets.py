"""Table of students x export targets: whether each runs there, how far it is from PyTorch, and ms per frame.

    python -m benchmarks.targets STUDENT ... --calibrate FRAMES [--only TARGET ...] [--threads 1] [--frames 5]
                                 [--out FILE]

Beside each file of weights lies the YAML file of its network, as kdsr convert and kdsr train leave it. A frame is
320x180 before enlarging; times are of the processor, so that other work on the machine does not count. The shader runs
on whatever Vulkan driver ffmpeg finds first, in software where there is no GPU; its time is what further frames take,
as the first one compiles the shader. The page's time is of all processes of Chromium. tflite of a student in floats is
calibrated on every second one of FRAMES (HR images) and shows the PSNR that it loses on the others. What FILE has
already of other students and targets stays in it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import save
from kdsr_arch.errors import UserError
from kdsr_arch.export.form import Prepared, prepare
from kdsr_arch.export.formats import onnx_runner
from kdsr_arch.export.glsl import placebo_runner
from kdsr_arch.export.int8 import quantize
from kdsr_arch.export.ncnn import ncnn_runner
from kdsr_arch.export.openvino import openvino_runner
from kdsr_arch.export.targets import IN_INT8, TARGETS
from kdsr_arch.export.tflite import tflite_runner
from kdsr_arch.export.web import page_runner
from kdsr_arch.infer.open import open_network
from kdsr_arch.records import markdown_table

RUNNERS: dict[str, tuple[str, Callable[[Prepared, Path], Callable[[Tensor], Tensor]]]] = {
    "onnx": (".onnx", lambda prepared, path: onnx_runner(path.read_bytes())),
    "openvino": (".xml", lambda prepared, path: openvino_runner(path)),
    "ncnn": (".param", lambda prepared, path: ncnn_runner(path)),
    "glsl": (".glsl", lambda prepared, path: placebo_runner(prepared.student.traits.scale, path.read_text())),
    "tflite": (".tflite", lambda prepared, path: tflite_runner(path.read_bytes())),
}
COLUMNS = (*RUNNERS, "web")


def milliseconds(run: Callable[[Tensor], Tensor], lq: Tensor, frames: int) -> float:
    """Return the least processor time of a frame after the first, of all threads and of processes that it started."""
    times = []
    for _ in range(frames + 1):
        start = _worked()
        run(lq)
        times.append(_worked() - start)
    return round(1000 * min(times[1:]), 1)


def _worked() -> float:
    """Return the processor time so far in seconds."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def shader_milliseconds(run: Callable[[Tensor], Tensor], lq: Tensor, frames: int) -> float:
    """Return the processor time that further frames of a video take, each."""
    used = [_worked()]
    for count in (1, 1 + 2 * frames):
        run(lq.expand(count, -1, -1, -1))
        used.append(_worked())
    return round(1000 * (used[2] - 2 * used[1] + used[0]) / (2 * frames), 1)


def page_milliseconds(path: Path, scale: int, lq: Tensor, frames: int) -> float:
    """Return the least processor time of a frame after the first, of all of Chromium."""
    used = []
    with page_runner(path.read_text(encoding="utf-8"), scale) as run:
        for _ in range(frames + 2):
            used.append(_worked_by(run.page.group))
            run(lq)
    return round(1000 * min(after - before for before, after in pairwise(used[1:])), 1)


def _worked_by(group: int) -> float:
    """Return the processor time in seconds of the processes of a group so far."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12]) if int(fields[2]) == group else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def cell(target: str, prepared: Prepared, folder: Path, lq: Tensor, frames: int, calibrate: Path) -> dict[str, Any]:
    """Export a student for a target, and time it there."""
    ending, runner = RUNNERS.get(target, (".html", None))
    path = folder / f"{target}{ending}"
    if target == "tflite" and prepared.precision != "int8":
        price = quantize(prepared, calibrate, path, max_loss=100.0)
        found = {"lost": round(price.lost, 3), "psnr": round(price.between, 1)}
    else:
        deviations = TARGETS[target](prepared, path)
        found = {
            "max_difference": max(d.largest for d in deviations),
            "psnr": round(min(200.0, *(d.psnr for d in deviations)), 1),
        }
    if runner is None:
        return found | {"ms": page_milliseconds(path, prepared.student.traits.scale, lq, frames)}
    timed = shader_milliseconds if target == "glsl" else milliseconds
    return found | {"ms": timed(runner(prepared, path), lq, frames)}


@torch.no_grad()
def row(
    weights: str, targets: Sequence[str], frames: int, folder: Path, calibrate: Path, before: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """Export a student for every target, and time it in each and in PyTorch; ``before``: what is known of it."""
    prepared = prepare(open_network(weights))
    lq = prepared.example(180, 320)
    cells = dict(before)
    if "pytorch" not in before:
        cells["pytorch"] = {"ms": milliseconds(prepared.module, lq, frames)}
    for target in targets:
        if prepared.precision == "int8" and target not in IN_INT8:
            cells[target] = {"refused": f"{target} computes in floats"}
            continue
        try:
            cells[target] = cell(target, prepared, folder, lq, frames, calibrate)
        except UserError as error:
            cells[target] = {"refused": str(error)}
    return {**cells, "network": prepared.student.network, "scale": prepared.student.traits.scale}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Write the rows as Markdown, with a note for every refusal."""
    lines, notes = [], []
    for name, cells in rows.items():
        lines.append([name, f"{cells['pytorch']['ms']:.0f} ms"])
        for target in COLUMNS:
            found = cells.get(target, {"refused": f"{target} was not measured"})
            if "refused" in found:
                notes.append(f"- {name}: {found['refused'].partition(': it takes')[0]}")
                lines[-1].append("no")
            else:
                apart = f"-{found['lost']:.2f} dB" if "lost" in found else f"{found['max_difference']:.0e}"
                lines[-1].append(f"{apart}, {found['ms']:.0f} ms")
    return "\n".join([markdown_table(["student", "PyTorch", *COLUMNS], lines), "", *dict.fromkeys(notes)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", metavar="STUDENT", help="a .pth file, or the name of shipped weights")
    parser.add_argument("--calibrate", type=Path, required=True, metavar="FRAMES", help="a folder of HR images")
    parser.add_argument("--only", nargs="+", choices=COLUMNS, default=COLUMNS, metavar="TARGET")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = json.loads(args.out.read_text())["students"] if args.out and args.out.is_file() else {}
    for weights in args.students:
        name = Path(weights).stem
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = row(weights, args.only, args.frames, Path(folder), args.calibrate, rows.get(name, {}))
        print(name, rows[name], flush=True)
        save(args.out, {"input": [320, 180], "threads": args.threads, "students": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
