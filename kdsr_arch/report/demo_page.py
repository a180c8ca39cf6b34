"""The demo's tables, pictures and page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kdsr_arch.errors import UserError
from kdsr_arch.evaluate.evaluator import EvalResult
from kdsr_arch.infer.cost import where_run
from kdsr_arch.infer.png import to_uint8, write_bytes
from kdsr_arch.metrics.psnr_metric import psnr
from kdsr_arch.records import format_value, markdown_table, strict_json, versions
from kdsr_arch.report.crops import crop_sheet, find_box
from kdsr_arch.report.curves import plot_curves
from kdsr_arch.report.page import Page
from kdsr_arch.report.speed_plot import SpeedPoint, plot_speed

if TYPE_CHECKING:
    from kdsr_arch.demo import Row, Training

NOISE_DB = 0.1
"""Two trainings of the demo differ by about this much when nothing but the seed does (standard deviation 0.06 dB)."""

_TILE = 330  # width of a crop on the sheet in pixels


def finding(psnr_of: Mapping[str, float], iterations: int) -> str:
    """What was measured, in words that follow from the numbers.

    Args:
        psnr_of: mean PSNR under the keys bicubic, alone, taught, teacher.
        iterations: of both trainings.
    """
    alone, taught = psnr_of["alone"], psnr_of["taught"]
    gain, gap = taught - alone, psnr_of["teacher"] - alone
    head = (
        f"After {iterations:,} iterations on the same data with the same seed, the student reaches {taught:.2f} dB "
        f"with STD and {alone:.2f} dB alone"
    )
    if abs(gain) < NOISE_DB:
        verdict = f": a difference of {gain:+.2f} dB, within the noise of one seed, so neither a gain nor a loss"
    elif gain > 0:
        share = f", {100 * gain / gap:.0f} % of the {gap:.2f} dB that the teacher is ahead" if gap > 0 else ""
        verdict = f": STD gained {gain:.2f} dB{share}"
    else:
        verdict = f": STD lost {-gain:.2f} dB in this run"
    if gap <= 0:
        verdict += ". The teacher is no better than the student here, so it had little to teach"
    rest = (
        f"Bicubic enlargement is at {psnr_of['bicubic']:.2f} dB, the teacher at {psnr_of['teacher']:.2f} dB. "
        f"This is one seed: differences under about {NOISE_DB} dB are noise. Beside the two terms of the method, "
        "STD here includes the output term; the controls that tell them apart, with three seeds, are in "
        "experiments/results."
    )
    return f"{head}{verdict}. {rest}"


def write_page(
    rows: Sequence[Row], trainings: Mapping[str, Training], samples: Iterable[Mapping[str, Any]], out: Path
) -> Path:
    """Write ``demo.html``, ``demo.md``, ``demo.json`` and the PNGs into ``out``, and print the table and the finding.

    Args:
        rows: bicubic, the student alone, the student with STD, the teacher, in that order.
        trainings: label -> training, for the curves.
        samples: the held-out clips: lq, gt, name, frames.
        out: the folder.
    """
    result = rows[0].report.results[0]
    header, table = _table(rows)
    caption = f"{result.protocol}; mean over {len(result.per_item)} clips of held-out frames. {_speed_note(rows)}"
    if "tof" in result.mean:
        caption += " tOF, the error of the motion seen in the result, is better when lower."
    values = [row.report.results[0].mean["psnr"] for row in rows]
    levels = dict(zip(("bicubic", "alone", "taught", "teacher"), values, strict=True))
    iterations = next(iter(trainings.values())).total
    text = finding(levels, iterations)
    print(f"\n{markdown_table(header, table)}\n\n{caption}\n\n{text}\n", flush=True)

    page = Page(
        "A video super-resolution student, taught by EDVR",
        "Space-time distillation (STD) on real clips: measured on frames that no network was trained on.",
    )
    page.finding(text)
    page.section("Results")
    page.table(header, table, caption)
    page.section("Clip by clip", "PSNR in dB.")
    page.table(*_clip_table(rows), result.protocol)
    page.section(
        "Pictures",
        "The crop is where bicubic enlargement is farthest from the ground truth. "
        "Pixels are shown as they are; click to enlarge.",
    )
    for path, note in _sheets(rows, samples, out):
        page.image(path, note)
    page.section("Training")
    page.image(
        _curves(trainings, levels, result, out),
        f"Left: the pixel loss while training. Right: PSNR of the validation frames ({result.protocol}).",
    )
    page.section("Quality against run time")
    page.image(_speed(rows, out), f"Mean PSNR against run time per frame. {_speed_note(rows)}")
    page.section("How it was made", "Both students: same network, first weights, data order and iterations.")
    page.code(_provenance(rows, trainings))
    _write_tables(rows, out, header, table, caption, text)
    return page.write(out / "demo.html")


def _table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    metrics = list(rows[0].report.results[0].mean)
    header = ["network", "parameters", "G multiply-adds", "ms per frame", *(_title(metric) for metric in metrics)]
    table = []
    for row in rows:
        cost, mean = row.report.cost, row.report.results[0].mean
        costs = (
            ["-"] * 3
            if cost is None
            else [f"{cost.parameters:,}", f"{cost.multiply_adds / 1e9:.2f}", f"{cost.milliseconds:.1f}"]
        )
        table.append([row.label, *costs, *(format_value(mean[metric], metric) for metric in metrics)])
    return header, table


def _title(metric: str) -> str:
    return {"psnr": "PSNR (dB)", "ssim": "SSIM", "tof": "tOF (px)"}.get(metric, metric)


def _clip_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    clips = [name for name, _, _ in rows[0].report.results[0].per_item]
    table = [[row.label, *(f"{values['psnr']:.2f}" for _, values, _ in row.report.results[0].per_item)] for row in rows]
    return ["network", *clips], table


def _speed_note(rows: Sequence[Row]) -> str:
    cost = rows[0].report.cost
    if cost is None:
        return ""
    where = where_run(cost.device, cost.threads)
    return f"Costs hold for one frame of {cost.width}x{cost.height} LR pixels at x{cost.scale}, run times on {where}."


def _curves(trainings: Mapping[str, Training], levels: Mapping[str, float], result: EvalResult, out: Path) -> Path:
    experiments = {label: training.experiment for label, training in trainings.items()}
    lines = {name: levels[name] for name in ("bicubic", "teacher")}
    return plot_curves(experiments, out / "curves.png", levels=lines, protocol=result.protocol)


def _speed(rows: Sequence[Row], out: Path) -> Path:
    points = [
        SpeedPoint(
            row.label,
            row.report.cost.milliseconds,
            row.report.results[0].mean["psnr"],
            row.report.cost.parameters,
            taught=row.taught,
        )
        for row in rows
        if row.report.cost is not None
    ]
    cost = rows[0].report.cost
    size = f"{cost.width}x{cost.height} x{cost.scale}" if cost is not None else ""
    where = "" if cost is None else where_run(cost.device, cost.threads)
    return plot_speed(points, out / "speed.png", size=size, where=where, protocol=rows[0].report.results[0].protocol)


def _sheets(rows: Sequence[Row], samples: Iterable[Mapping[str, Any]], out: Path) -> list[tuple[Path, str]]:
    """One sheet of crops per clip, of its middle held-out frame."""
    sheets = []
    for sample in samples:
        name, middle = sample["name"], len(sample["gt"]) // 2
        truth, frame = to_uint8(sample["gt"][middle]), sample["frames"][middle]
        restored = [
            (row.label, _read(row.frames / rows[0].report.results[0].dataset / name / f"{frame}.png")) for row in rows
        ]
        box = find_box(truth, restored[0][1], max(truth.shape[1] // 6, 40), max(truth.shape[1] // 8, 30))
        small = to_uint8(sample["lq"][middle])
        nearest = cv2.resize(small, truth.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
        columns = [
            ("LR, as given", nearest, f"{small.shape[1]}x{small.shape[0]} pixels"),
            *((label, image, f"{psnr(image, truth, 0, True):.2f} dB") for label, image in restored),
            ("ground truth", truth, ""),
        ]
        path = crop_sheet(
            truth,
            columns,
            box,
            out / f"crops_{name}.png",
            zoom=max(_TILE // box.width, 2),
            title=f"{name}, frame {frame}",
        )
        sheets.append((path, f"{name}, frame {frame}; under each name the PSNR of the whole frame (Y)."))
    return sheets


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path))
    if image is None:
        raise UserError(f"{path}: the restored frame is missing; run the demo again")
    return image.astype(np.uint8, copy=False)


def _provenance(rows: Sequence[Row], trainings: Mapping[str, Training]) -> str:
    lines = [
        f"{label}: kdsr train -opt {training.file.parent.name}/{training.file.name}"
        for label, training in trainings.items()
    ]
    lines += [f"{name} {version}" for name, version in versions().items()]
    return "\n".join(lines)


def _write_tables(
    rows: Sequence[Row], out: Path, header: Sequence[str], table: Sequence[Sequence[str]], caption: str, text: str
) -> None:
    page = f"{text}\n\n{markdown_table(list(header), [list(row) for row in table])}\n\n{caption}\n"
    write_bytes(out / "demo.md", page.encode())
    content = {"finding": text, "rows": {row.key: asdict(row.report) for row in rows}}
    write_bytes(out / "demo.json", strict_json(content).encode())
