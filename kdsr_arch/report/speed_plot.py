"""PSNR against run time: the comparison picture of the STD paper (Xiao et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from kdsr_arch.errors import UserError
from kdsr_arch.infer.cost import where_run
from kdsr_arch.io import read_json
from kdsr_arch.report.style import PALETTE, drawing, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REAL_TIME_MS = 40.0


class _Cost(BaseModel):
    """The keys of a results.json's run time that the plot needs."""

    milliseconds: Annotated[FiniteFloat, Field(gt=0)]
    parameters: Annotated[int, Field(ge=0, lt=1 << 53)]
    threads: int
    device: str
    width: int
    height: int
    scale: int


class _Result(BaseModel):
    """One data set of a results.json."""

    dataset: str
    mean: dict[str, float | str | None]
    protocol: str = ""


class _Report(BaseModel):
    """The keys of a results.json that the plot needs."""

    cost: _Cost
    results: list[_Result] = []


@dataclass(frozen=True)
class SpeedPoint:
    """One network in the picture.

    Attributes:
        label: its name.
        milliseconds: run time per frame.
        psnr: in dB.
        parameters: number of parameters, drawn as the area of the dot; 0 for none.
        taught: drawn as a star: a distilled student.
    """

    label: str
    milliseconds: float
    psnr: float
    parameters: int = 0
    taught: bool = False


def plot_results(
    folders: Mapping[str, Path],
    out: Path,
    *,
    metric: str = "psnr",
    dataset: str | None = None,
    taught: Collection[str] = (),
) -> Path:
    """Draw a metric against the run time of tested networks.

    Args:
        folders: label -> folder with a results.json of `kdsr test`.
        out: the PNG to write.
        metric: drawn upwards.
        dataset: which one; the first by default.
        taught: labels drawn as stars: distilled students.

    Raises:
        UserError: a file that cannot be read, a metric that was not measured, results of different protocols.
    """
    points, protocol, cost = speed_points(folders, metric, dataset, taught)
    where = f", LR input {cost.width}x{cost.height} x{cost.scale} ({where_run(cost.device, cost.threads)})"
    return plot_speed(points, out, where=where, protocol=protocol)


def speed_points(
    folders: Mapping[str, Path], metric: str, dataset: str | None, taught: Collection[str]
) -> tuple[list[SpeedPoint], str, _Cost]:
    """Read (points, protocol of the quality, how the time was measured); the arguments are :func:`plot_results`'."""
    reports = {label: read_report(folder) for label, folder in folders.items()}
    results = {label: _choose(report, dataset, folders[label]) for label, report in reports.items()}
    if len(protocols := {result.protocol for result in results.values()}) > 1:
        raise UserError(f"the results were measured in different ways: {' / '.join(sorted(protocols))}")
    points = []
    for label, result in results.items():
        value, cost = result.mean.get(metric), reports[label].cost
        if not isinstance(value, int | float):
            raise UserError(f"{folders[label]}: {metric} was not measured; it has {', '.join(result.mean)}")
        points.append(SpeedPoint(label, cost.milliseconds, value, cost.parameters, label in taught))
    return points, protocols.pop(), next(iter(reports.values())).cost


def read_report(folder: Path) -> _Report:
    """Read the results.json of a test.

    Raises:
        UserError: it is missing, damaged, or has no run time.
    """
    path = folder / "results.json"
    report = read_json(path, dict, "run kdsr test again")
    if not report.get("cost"):
        raise UserError(f"{path}: has no run time; test again without switching its measurement off")
    try:
        return _Report.model_validate(report)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{path}: {place} is missing or not what it should be; run kdsr test again") from None


def _choose(report: _Report, dataset: str | None, folder: Path) -> _Result:
    for result in report.results:
        if dataset is None or result.dataset == dataset:
            return result
    known = ", ".join(result.dataset for result in report.results)
    raise UserError(f"{folder}: has no results of data set '{dataset}'; it has {known}")


def plot_speed(points: Sequence[SpeedPoint], out: Path, *, where: str = "", protocol: str = "") -> Path:
    """Draw mean PSNR against run time per frame, logarithmic in time.

    Args:
        points: the networks.
        out: the PNG to write.
        where: the LR input and the device that the times hold for.
        protocol: how the PSNR was measured.
    """
    with drawing(out, width=7.0, height=4.4) as (axes,):
        axes.set_xscale("log")
        for number, point in enumerate(points):
            area = 70 + 60 * (point.parameters / 1e6) ** 0.5
            axes.scatter(
                point.milliseconds,
                point.psnr,
                s=area * (2.2 if point.taught else 1),
                zorder=3,
                color=PALETTE[number % len(PALETTE)],
                marker="*" if point.taught else "o",
                edgecolors="white",
                linewidths=0.8,
            )
        _label(axes, points)
        axes.margins(x=0.18, y=0.16)
        _draw_real_time(axes)
        plain_ticks(axes.xaxis)
        axes.set(xlabel=f"run time per frame in ms{where}", title="Quality against run time", ylabel="PSNR in dB")
        if protocol:
            axes.set_title(protocol, loc="right", fontsize=8, fontweight="normal", color="#55595F")
    return out


def _draw_real_time(axes: Axes) -> None:
    low, high = axes.get_xlim()
    if low < _REAL_TIME_MS < high:
        axes.axvline(_REAL_TIME_MS, color="#8A9099", linestyle=(0, (4, 3)), linewidth=1)
        axes.annotate(
            "25 frames/s",
            (_REAL_TIME_MS, 0),
            xycoords=("data", "axes fraction"),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=8,
            color="#55595F",
        )


def _label(axes: Axes, points: Sequence[SpeedPoint]) -> None:
    """Write each name beside its dot; of two dots close together, the lower one gets its name below."""
    span = max((p.psnr for p in points), default=1) - min((p.psnr for p in points), default=0) or 1.0
    for point in points:
        higher = [p for p in points if 0 < p.psnr - point.psnr < 0.12 * span]
        below = any(0.5 < p.milliseconds / point.milliseconds < 2 for p in higher)
        axes.annotate(
            f"{point.label}  {point.psnr:.2f}",
            (point.milliseconds, point.psnr),
            xytext=(0, -10 if below else 9),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
            fontsize=9,
            zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2},
        )
