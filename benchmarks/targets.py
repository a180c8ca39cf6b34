"""Table of students x export targets: whether each runs there, how far it is from PyTorch, and ms per frame.

    python -m benchmarks.targets STUDENT.pth ... [--threads 1] [--frames 5] [--out FILE]

Beside each file of weights lies the YAML file of its network, as kdsr convert and kdsr train leave it. A frame is
320x180 before enlarging; times are of the processor, so that other work on the machine does not count. The shader runs
on whatever Vulkan driver ffmpeg finds first, in software where there is no GPU; its time is what further frames take,
as the first one compiles the shader.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import save
from kdsr_arch.errors import UserError
from kdsr_arch.export.form import Prepared, prepare
from kdsr_arch.export.formats import onnx_runner
from kdsr_arch.export.ncnn import ncnn_runner
from kdsr_arch.export.openvino import openvino_runner
from kdsr_arch.export.placebo import placebo_runner
from kdsr_arch.export.targets import TARGETS
from kdsr_arch.infer.open import open_network
from kdsr_arch.records import markdown_table

RUNNERS: dict[str, tuple[str, Callable[[Prepared, Path], Callable[[Tensor], Tensor]]]] = {
    "onnx": (".onnx", lambda prepared, path: onnx_runner(path.read_bytes())),
    "openvino": (".xml", lambda prepared, path: openvino_runner(path)),
    "ncnn": (".param", lambda prepared, path: ncnn_runner(path)),
    "glsl": (".glsl", lambda prepared, path: placebo_runner(prepared.student.traits.scale, path.read_text())),
}


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


@torch.no_grad()
def row(weights: Path, frames: int, folder: Path) -> dict[str, Any]:
    """Export a student for every target, and time it in each and in PyTorch."""
    prepared = prepare(open_network(weights))
    lq = prepared.example(180, 320)
    cells: dict[str, Any] = {"pytorch": {"ms": milliseconds(prepared.module, lq, frames)}}
    for target, (ending, runner) in RUNNERS.items():
        path = folder / f"{target}{ending}"
        try:
            found = TARGETS[target](prepared, path)
        except UserError as error:
            cells[target] = {"refused": str(error)}
            continue
        timed = shader_milliseconds if target == "glsl" else milliseconds
        cells[target] = {
            "max_difference": max(d.largest for d in found),
            "psnr": round(min(d.psnr for d in found), 1),
            "ms": timed(runner(prepared, path), lq, frames),
        }
    return {"network": prepared.student.network, "scale": prepared.student.traits.scale, **cells}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Write the rows as Markdown, with a note for every refusal."""
    lines, notes = [], []
    for name, cells in rows.items():
        lines.append([name, f"{cells['pytorch']['ms']:.0f} ms"])
        for target in RUNNERS:
            cell = cells[target]
            if "refused" in cell:
                notes.append(f"- {name}: {cell['refused'].partition(': it takes')[0]}")
            lines[-1].append("no" if "refused" in cell else f"{cell['max_difference']:.0e}, {cell['ms']:.0f} ms")
    return "\n".join([markdown_table(["student", "PyTorch", *RUNNERS], lines), "", *notes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", type=Path, metavar="STUDENT.pth")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {}
    for weights in args.students:
        with tempfile.TemporaryDirectory() as folder:
            rows[weights.stem] = row(weights, args.frames, Path(folder))
    print(table(rows))
    save(args.out, {"input": [320, 180], "threads": args.threads, "students": rows})


if __name__ == "__main__":
    main()
