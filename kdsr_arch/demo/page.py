"""The demo's tables, pictures and page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdsr_arch.errors import UserError
from kdsr_arch.evaluate.evaluator import EvalResult
from kdsr_arch.evaluate.tester import TestReport
from kdsr_arch.infer.cost import Cost, where_run
from kdsr_arch.infer.pixels import to_bgr
from kdsr_arch.io import write_bytes
from kdsr_arch.records import format_value, markdown_table, strict_json, versions
from kdsr_arch.report.compare_data import read_image
from kdsr_arch.report.crops import frame_sheet
from kdsr_arch.report.render import data_uri, write_page
from kdsr_arch.report.training_curves import plot_curves

NOISE_DB = 0.1
"""Two trainings of the demo differ by about this much when nothing but the seed does (standard deviation 0.06 dB)."""


@dataclass(frozen=True)
class Row:
    """One network of the comparison.

    Attributes:
        key: bicubic, alone, taught or teacher.
        label: what tables and pictures call it.
        report: what the test measured.
        folder: where the test wrote results.json and ``visualization/DATASET/CLIP/FRAME.png``.
        experiment: where the demo trained it, or None.
        options: the option file of that training.
    """

    key: str
    label: str
    report: TestReport
    folder: Path
    experiment: Path | None = None
    options: str = ""

    @property
    def result(self) -> EvalResult:
        """The figures of the one data set."""
        return self.report.results[0]

    @property
    def cost(self) -> Cost:
        """Parameters, multiply-adds and run time."""
        if self.report.cost is None:
            raise UserError(f"{self.label}: no run time was measured; the demo needs val.speed_size in its test")
        return self.report.cost


def finding(psnr_of: Mapping[str, float], iterations: int) -> str:
    """Say what was measured, in words that follow from the numbers.

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


def write_demo(rows: Sequence[Row], samples: Iterable[Mapping[str, Any]], out: Path, iterations: int) -> Path:
    """Write ``demo.html``, ``demo.md``, ``demo.json`` and the PNGs into ``out``, and print the table and the finding.

    Args:
        rows: bicubic, the student alone, the student with STD, the teacher, in that order.
        samples: the held-out clips: lq, gt, name, frames.
        out: the folder.
        iterations: of the trainings.

    Returns:
        The page.
    """
    result, cost = rows[0].result, rows[0].cost
    costs = (
        f"Costs hold for one frame of {cost.width}x{cost.height} LR pixels at x{cost.scale}, "
        f"run times on {where_run(cost.device, cost.threads)}."
    )
    titles = {"psnr": "PSNR (dB)", "ssim": "SSIM", "tof": "tOF (px)"}
    header = ["network", "parameters", "G multiply-adds", "ms per frame", *(titles.get(m, m) for m in result.mean)]
    table = []
    for row in rows:
        figures = [f"{row.cost.parameters:,}", f"{row.cost.multiply_adds / 1e9:.2f}", f"{row.cost.milliseconds:.1f}"]
        table.append([row.label, *figures, *(format_value(row.result.mean[m], m) for m in result.mean)])
    clips = [[row.label, *(f"{values['psnr']:.2f}" for _, values, _ in row.result.per_item)] for row in rows]
    caption = f"{result.protocol}; mean over {len(result.per_item)} clips of held-out frames. {costs}"
    if "tof" in result.mean:
        caption += " tOF, the error of the motion seen in the result, is better when lower."
    levels = {row.key: row.result.mean["psnr"] for row in rows}
    text = finding(levels, iterations)
    plain = f"{markdown_table(header, table)}\n\n{caption}\n"
    print(f"\n{plain}\n{text}\n", flush=True)
    write_bytes(out / "demo.md", f"{text}\n\n{plain}".encode())
    content = {"finding": text, "rows": {row.key: asdict(row.report) for row in rows}}
    write_bytes(out / "demo.json", strict_json(content).encode())
    trained = {row.label: row.experiment for row in rows if row.experiment is not None}
    lines = {key: levels[key] for key in ("bicubic", "teacher")}
    curves = plot_curves(trained, out / "curves.png", levels=lines, protocol=result.protocol)
    return write_page(
        out / "demo.html",
        "demo.html",
        title="A video super-resolution student, taught by EDVR",
        finding=text,
        results=(header, table),
        caption=caption,
        clips=(["network", *(name for name, _, _ in result.per_item)], clips),
        protocol=result.protocol,
        sheets=[(_embedded(path), note) for path, note in _sheets(rows, samples, out)],
        curves=_embedded(curves),
        commands=[(row.label, row.options) for row in rows if row.options],
        versions=versions(),
    )


def _embedded(path: Path) -> str:
    return data_uri(path.read_bytes(), "image/png")


def _sheets(rows: Sequence[Row], samples: Iterable[Mapping[str, Any]], out: Path) -> list[tuple[Path, str]]:
    """Draw one sheet of crops per clip, of its middle held-out frame."""
    sheets = []
    for sample in samples:
        name, middle = sample["name"], len(sample["gt"]) // 2
        frame = sample["frames"][middle]
        place, title = Path("visualization", rows[0].result.dataset, name, f"{frame}.png"), f"{name}, frame {frame}"
        restored = {row.label: read_image(row.folder / place) for row in rows}
        truth, small = to_bgr(sample["gt"][middle]), to_bgr(sample["lq"][middle])
        path = frame_sheet(truth, small, restored, out / f"crops_{name}.png", title)
        sheets.append((path, f"{title}; under each name the PSNR of the whole frame (Y)."))
    return sheets
