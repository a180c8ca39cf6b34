"""What teaching brought: agreement with the teacher, the truth where there is one, speed, and a page with crops."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from kdsr_arch.errors import UserError
from kdsr_arch.infer.cost import where_run
from kdsr_arch.io import write_bytes
from kdsr_arch.records import markdown_table, strict_json
from kdsr_arch.report.crops import crop_sheet, find_box
from kdsr_arch.report.render import data_uri, write_page
from kdsr_arch.specialize.frames import Source, open_source
from kdsr_arch.specialize.networks import Network, open_student
from kdsr_arch.specialize.teach import Scores
from kdsr_arch.specialize.work_folder import WorkFolder, read_rgb
from kdsr_arch.specialize.zoom_out import Verdict
from kdsr_arch.specialize.zoom_out import score as psnr_of
from kdsr_arch.upscale.dispatch import kind_of

_SHEETS = 4


@dataclass(frozen=True)
class Telling:
    """What there is to tell of.

    Attributes:
        output: the student's file.
        source, teacher, student, work: what was taught on, by, which, and where; `student` is the one at the start.
        scores: 'before' and 'after'.
        verdict: of the zoom-out test at the start.
    """

    output: Path
    source: Source
    teacher: Network
    student: Network
    work: WorkFolder
    scores: Mapping[str, Scores]
    verdict: Verdict

    @property
    def held_out(self) -> list[dict[str, Any]]:
        """The frames that were not taught on."""
        return [frame for frame in (self.work.plan or {})["frames"] if frame["held_out"]]


@dataclass(frozen=True)
class Cost:
    """Seconds.

    Attributes:
        teacher, student: for one whole frame.
        spent: for choosing, the teacher on the chosen frames, and teaching.
        frames: of the input.
    """

    teacher: float
    student: float
    spent: float
    frames: int

    @property
    def break_even(self) -> float:
        """Frames after which teaching and the student are faster than the teacher alone."""
        return self.spent / (self.teacher - self.student) if self.teacher > self.student else float("inf")

    def __str__(self) -> str:
        whole = f"all {self.frames:,} frames take the student about {_clock(self.frames * self.student)}, the teacher "
        whole += _clock(self.frames * self.teacher)
        pays = f"after {self.break_even:,.0f} frames this is faster than the teacher alone"
        if self.break_even == float("inf"):
            pays = "the teacher is no slower than the student, so upscale with the teacher"
        return (
            f"{1 / self.student:.3g} frames/s, the teacher {1 / self.teacher:.3g}; choosing, the teacher's frames and "
            f"teaching took {_clock(self.spent)}: {pays}; {whole}"
        )


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{rest} s"


def measure_cost(telling: Telling) -> Cost:
    """Measure the student on a whole frame; the teacher's time is that of the chosen frames."""
    height, width = telling.source.size
    seconds, pixels = telling.work.state.get("teacher", [0.0, 0])
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    times = []
    with torch.inference_mode():
        for _ in range(3):
            began = time.perf_counter()
            telling.student.restore([image])
            times.append(time.perf_counter() - began)
    frames = int((telling.work.plan or {})["looked_at"])
    spent = float(telling.work.state.get("seconds", 0.0))
    return Cost(seconds / max(pixels, 1) * height * width, min(times[1:]), spent, frames)


def tell(telling: Telling, ground_truth: Path | None = None) -> None:
    """Print what was gained and what it cost; write ``report.json`` and ``report.html`` into the work folder.

    Args:
        telling: what there is to tell of.
        ground_truth: a video or folder of the same frames in high resolution.

    Raises:
        UserError: a ground truth that does not fit.
    """
    specialized = open_student(str(telling.output), None, telling.teacher.scale, telling.student.restorer.device)
    pictures = [_pictures(telling, specialized, frame) for frame in telling.held_out]
    truths = _truths(telling, ground_truth) if ground_truth else {}
    cost, rows = measure_cost(telling), _rows(telling, pictures, truths)
    header = ["held-out frames, PSNR (Y, dB)", "start", "specialized", "gain", "teacher"]
    print(f"\n{markdown_table(header, rows)}\n\n{cost}\n", flush=True)
    content = {
        "scores": {key: vars(value) for key, value in telling.scores.items()}, "zoom_out": vars(telling.verdict),
        "cost": {**vars(cost), "break_even": cost.break_even}, "table": [header, *rows],
        "machine": where_run(telling.student.restorer.device.type, torch.get_num_threads()),
    }  # fmt: skip
    root = telling.work.root
    write_bytes(root / "report.json", strict_json(content).encode())
    sheets = []
    for place in np.unique(np.linspace(0, len(pictures) - 1, _SHEETS).astype(int)):
        frame = telling.held_out[place]
        sheets.append(_sheet(root, frame, pictures[place], truths.get(frame["number"])))
    page = write_page(
        root / "report.html", "specialize.html", title=f"A student taught on {telling.source.path.name}",
        lead=f"{telling.student.label}, taught by {telling.teacher.label}", header=header, rows=rows, cost=str(cost),
        verdict=str(telling.verdict), sheets=sheets,
    )  # fmt: skip
    print(f"{telling.output}: the student; {page}: before and after", flush=True)


def _pictures(telling: Telling, specialized: Network, frame: Mapping[str, Any]) -> dict[str, NDArray[np.uint8]]:
    lq = read_rgb(telling.work.lq(frame["number"], True))
    with torch.inference_mode():
        made = {"start": telling.student.restore([lq]), "specialized": specialized.restore([lq])}
    return {"LR": lq, **made, "teacher": read_rgb(telling.work.teachers(frame["number"], True))}


def _rows(
    telling: Telling, pictures: list[dict[str, NDArray[np.uint8]]], truths: Mapping[int, NDArray[np.uint8]]
) -> list[list[str]]:
    before, after, scale = telling.scores["before"], telling.scores["after"], telling.teacher.scale
    rows = [_row("to the teacher's output", before.teacher, after.teacher, None)]
    if telling.verdict.frames:
        rows.append(_row("reduced once more", before.zoom, after.zoom, telling.verdict.teacher))
    if truths:
        pairs = [(shown, truths[f["number"]]) for shown, f in zip(pictures, telling.held_out, strict=True)]
        means = [
            float(np.mean([psnr_of(shown[kind], truth, scale) for shown, truth in pairs]))
            for kind in ("start", "specialized", "teacher")
        ]
        rows.append(_row("to the ground truth", *means))
    return rows


def _row(name: str, before: float, after: float, teacher: float | None) -> list[str]:
    last = "-" if teacher is None else f"{teacher:.2f}"
    return [name, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}", last]


def open_truth(path: Path, source: Source, scale: int) -> Source:
    """Open the ground truth of an input.

    Raises:
        UserError: it is not there, or its frames are not `scale` times the input's, or fewer.
    """
    if not path.exists():
        raise UserError(f"--hr {path}: no such file or folder")
    truth = open_source(path, kind_of(path), sequence=True)
    if (truth.size[0] // scale, truth.size[1] // scale) != source.size:
        told = "x".join(map(str, truth.size[::-1]))
        raise UserError(f"--hr {path}: its frames are {told}, not {scale} times those of {source.path}")
    if truth.count and truth.count < source.count:
        raise UserError(f"--hr {path}: has {truth.count} frames, and {source.path} has {source.count}")
    return truth


def _truths(telling: Telling, path: Path) -> dict[int, NDArray[np.uint8]]:
    """Read the ground truth of the held-out frames, under their windows."""
    scale, found = telling.teacher.scale, dict[int, NDArray[np.uint8]]()
    wanted = {frame["number"]: frame for frame in telling.held_out}
    truth = open_truth(path, telling.source, scale)
    for frame in truth.frames():
        if frame.number in wanted:
            top, left = (scale * side for side in wanted[frame.number]["box"])
            height, width = read_rgb(telling.work.teachers(frame.number, True)).shape[:2]
            found[frame.number] = frame.image[top : top + height, left : left + width].copy()
    if missing := sorted(set(wanted) - set(found)):
        raise UserError(f"--hr {path}: has no frame {missing[0]}, which {telling.source.path} has")
    return found


def _sheet(
    root: Path, frame: Mapping[str, Any], shown: Mapping[str, NDArray[np.uint8]], truth: NDArray[np.uint8] | None
) -> tuple[str, str]:
    """Draw crops of one frame where start and teacher differ most; return the picture's address and its caption."""
    images = dict(_bgr(shown))
    teacher = images["teacher"]
    height, width = teacher.shape[:2]
    enlarged = cv2.resize(images["LR"], (width, height), interpolation=cv2.INTER_NEAREST)
    columns = [("LR", enlarged.astype(np.uint8, copy=False), "")]
    columns += [(name, images[name], "") for name in ("start", "specialized", "teacher")]
    if truth is not None:
        columns.append(("ground truth", np.ascontiguousarray(truth[..., ::-1]), ""))
    box = find_box(teacher, images["start"], max(width // 6, 40), max(width // 8, 30))
    place = f"frame {frame['number']} ({frame['where']})"
    path = crop_sheet(teacher, columns, box, root / f"crops_{frame['number']:07d}.png", zoom=3, title=place)
    return data_uri(path.read_bytes(), "image/png"), place


def _bgr(images: Mapping[str, NDArray[np.uint8]]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for name, image in images.items():
        yield name, np.ascontiguousarray(image[..., ::-1])
