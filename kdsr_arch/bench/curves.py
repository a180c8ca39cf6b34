"""The pictures of a bench: learning curves (mean of the seeds, their range as a band), PSNR against budget and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.bench.outcomes import Outcome, outcome
from kdsr_arch.bench.plan import Run
from kdsr_arch.options import load_yaml
from kdsr_arch.report.style import PALETTE, drawing, plain_ticks
from kdsr_arch.report.training_curves import Curve, loss_curve, smooth, val_curve
from kdsr_arch.train.history import logged_number, read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Histories = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""row -> the records of each seed's history."""


def histories(runs: Sequence[Run]) -> dict[str, list[list[dict[str, Any]]]]:
    """Read the longest runs of each row; a row that is an earlier one's run, read off later, has none of its own."""
    done = [run for run in runs if not run.reference and outcome(run) is not None]
    longest = max((run.budget for run in done), default=0)
    first = {run.experiment: run for run in reversed(done) if run.budget == longest}
    rows: dict[str, list] = {}
    for run in done:
        if first.get(run.experiment) is run:
            rows.setdefault(run.row, []).append(_history(run))
    return rows


def _history(run: Run) -> list[dict[str, Any]]:
    """Return a run's records up to its length, the pixel loss without its weight: rows may weigh it differently."""
    weight = ((load_yaml(run.options).get("train") or {}).get("pixel_opt") or {}).get("loss_weight", 1)
    records = [record for record in read_history(run.experiment) if record["iter"] <= run.length]
    if not isinstance(weight, int | float) or weight <= 0:  # a schedule
        return records
    for record in records:
        value = logged_number(record.get("l_pix"))
        if value is not None:
            record["l_pix"] = value / weight
    return records


def levels(outcomes: Sequence[Outcome]) -> tuple[str, dict[str, float]]:
    """Return the first data set's name, and the PSNR on it of what stands beside the rows."""
    name = next((name for result in outcomes for name in result.val), "")  # a teacher may be trained without any
    references = [(result.row, result.val.get(name, {})) for result in outcomes if result.reference]
    return name, {row: float(scores["psnr"]) for row, scores in references if "psnr" in scores}


def plot_bench(rows: Histories, out: Path, name: str = "", levels: Mapping[str, float] | None = None) -> Path:
    """Draw the PSNR on the first data set and the pixel loss (running mean) of all rows over the iterations.

    Args:
        rows: see :func:`histories`.
        out: the PNG to write.
        name: what the picture calls the data set.
        levels: label -> value, in the title and, where it lies within what is shown, drawn as a dashed line.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    with drawing(out, columns=2, width=12, height=4.6) as (left, right):
        shown: list[float] = []
        for number, (row, seeds) in enumerate(rows.items()):
            style = {"color": PALETTE[number % len(PALETTE)], "linestyle": "-" if number < len(PALETTE) else "--"}
            shown += _band(left, [val_curve(records) for records in seeds], row, style)
            losses = [loss_curve(records) for records in seeds]
            smoothed = [Curve(c.iterations, list(smooth(c.values, len(c.values) // 8 + 1))) for c in losses]
            _band(right, smoothed, row, style)
        low, high = (min(shown), max(shown)) if shown else left.get_ylim()
        left.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
        for value in (levels or {}).values():
            if left.get_ylim()[0] < value < left.get_ylim()[1]:
                left.axhline(value, color="#6E6E6E", linestyle=(0, (4, 3)), linewidth=1)
        title = ", ".join([name, *(f"{label} {value:.2f}" for label, value in (levels or {}).items())])
        left.set(xlabel="iteration", ylabel="PSNR", title=title)
        right.set(xlabel="iteration", ylabel="l_pix (running mean)", title="Training")
        if right.lines:
            right.legend(fontsize=8, loc="upper right")
    return out


def plot_gains(summary: Sequence[Mapping[str, Any]], out: Path, first: str) -> Path:
    """Draw the gain of each row over the first against the budget, with the paired 95 % t-interval.

    Args:
        summary: the records of :func:`kdsr_arch.bench.summary.summarize`.
        out: the PNG to write.
        first: the first row's name.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    rows: dict[str, list[tuple[int, float, float]]] = {}
    for record in sorted(summary, key=lambda record: record["budget"]):
        if gain := record["gain"]:
            rows.setdefault(record["row"], []).append((record["budget"], gain["mean"], gain["half"] or 0.0))
    with drawing(out, width=6.4, height=4.4) as (axes,):
        axes.axhline(0, color="#6E6E6E", linewidth=1)
        for number, (row, points) in enumerate(rows.items()):
            budgets, means, halves = zip(*points, strict=True)
            aside = [
                budget * 1.03 ** (number - (len(rows) - 1) / 2) for budget in budgets
            ]  # intervals that do not hide
            color = PALETTE[number % len(PALETTE)]
            axes.errorbar(aside, means, halves, label=row, color=color, marker="o", markersize=4, capsize=3)
        axes.set(xscale="log", xlabel="iterations", ylabel="gain in PSNR, 95 % interval", title=f"over '{first}'")
        axes.set_xticks(sorted({budget for points in rows.values() for budget, _, _ in points}))
        plain_ticks(axes.xaxis)
        axes.legend(fontsize=8)
    return out


def plot_costs(outcomes: Sequence[Outcome], out: Path, bold: str = "ours") -> Path:
    """Draw the PSNR, the mean over the data sets, of what was tested against its multiply-adds.

    Args:
        outcomes: of tests that measured costs.
        out: the PNG to write.
        bold: networks whose names begin so are set off.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    points = {o.row: _cost_point(o) for o in outcomes if o.cost and o.cost["parameters"]}
    with drawing(out, width=7.6, height=4.8) as (axes,):
        colors = {row: PALETTE[int(row.startswith(bold))] for row in points}
        for row, point in points.items():
            axes.scatter(*point, s=52 if row.startswith(bold) else 30, color=colors[row], zorder=3)
        axes.set(xscale="log", xlabel=f"G multiply-adds for a {_frame(outcomes)} frame")
        axes.set_ylabel(f"PSNR, mean of {', '.join(outcomes[0].val)}")
        axes.margins(0.12)
        for (row, point), shift in zip(points.items(), _free_places(axes, points), strict=True):
            weight = "bold" if row.startswith(bold) else "normal"
            axes.annotate(
                row, point, shift, textcoords="offset points", fontsize=8, color=colors[row], fontweight=weight
            )
        plain_ticks(axes.xaxis)
    return out


def _cost_point(result: Outcome) -> tuple[float, float]:
    assert result.cost is not None
    psnr = [float(scores["psnr"]) for scores in result.val.values() if "psnr" in scores]
    return result.cost["multiply_adds"] / 1e9, sum(psnr) / len(psnr)


def _frame(outcomes: Sequence[Outcome]) -> str:
    return next(f"{o.cost['width']}x{o.cost['height']}" for o in outcomes if o.cost)


def _free_places(axes: Axes, points: Mapping[str, tuple[float, float]]) -> list[tuple[float, float]]:
    """Choose for each label a place around its point, in points, where it overlaps others least."""
    high, wide = 10.0, 4.6  # of a line, and of a letter
    at = {row: axes.transData.transform(point) * 72 / axes.figure.dpi for row, point in points.items()}
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in at.values()]
    chosen: list[tuple[float, float]] = []
    for row, (x, y) in at.items():
        width = wide * len(row)
        shifts = [(dx, float(dy)) for dy in (3, -10, 12, -20) for dx in (6.0, -6 - width)]
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + high) for dx, dy in shifts]
        best = min(range(len(boxes)), key=lambda i: sum(_overlap(boxes[i], other) for other in taken))
        taken.append(boxes[best])
        chosen.append(shifts[best])
    return chosen


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _band(axes: Axes, curves: Sequence[Curve], label: str, style: Mapping[str, Any]) -> list[float]:
    """Draw one row; returns its lowest and highest value in the last three quarters, for the axis."""
    iterations, values = _common(curves)
    if not iterations:
        return []
    axes.plot(iterations, values.mean(0), label=label, linewidth=1.4, **style)
    axes.fill_between(iterations, values.min(0), values.max(0), color=style["color"], alpha=0.12, linewidth=0)
    late = values[:, len(iterations) // 4 :]
    return [float(late.min()), float(late.max())] if late.size else []


def _common(curves: Sequence[Curve]) -> tuple[list[int], NDArray[np.float64]]:
    """Return the iterations that all curves have, and their values there, (seeds, iterations)."""
    tables = [dict(zip(curve.iterations, curve.values, strict=True)) for curve in curves]
    shared = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    return shared, np.array([[table[i] for i in shared] for table in tables])
