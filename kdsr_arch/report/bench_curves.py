"""Learning curves of a bench: one line per row, the mean over its seeds, with their range as a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.report.curves import Curve, loss_curve, smooth, val_curve
from kdsr_arch.report.style import PALETTE, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Histories = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]


def plot_bench(
    rows: Histories,
    out: Path,
    *,
    metric: str = "psnr",
    dataset: str | None = None,
    name: str = "",
    loss: str = "l_pix",
    levels: Mapping[str, float] | None = None,
) -> Path:
    """Draw a metric and the training loss of all rows over the iterations.

    Args:
        rows: row -> the records of each seed's history.
        out: the PNG to write.
        metric, dataset: what is drawn on the left, and of which data set (its key; default: the first).
        name: what the picture calls that data set.
        loss: training quantity on the right (running mean).
        levels: label -> value told in the title and, where it lies within what is shown, drawn as a dashed line.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    with drawing(out, columns=2, width=12, height=4.6) as (left, right):
        shown: list[float] = []
        for number, (row, seeds) in enumerate(rows.items()):
            style = {"color": PALETTE[number % len(PALETTE)], "linestyle": "-" if number < len(PALETTE) else "--"}
            scores = [val_curve(records, metric, dataset) for records in seeds]
            shown += _band(left, scores, row, style)
            _band(right, [_smoothed(loss_curve(records, loss)) for records in seeds], row, style)
        if shown:
            margin = 0.08 * (max(shown) - min(shown))
            left.set_ylim(min(shown) - margin, max(shown) + margin)
        _draw_levels(left, levels or {})
        said = ", ".join([name, *(f"{label} {value:.2f}" for label, value in (levels or {}).items())])
        left.set(xlabel="iteration", ylabel=metric.upper(), title=said)
        right.set(xlabel="iteration", ylabel=f"{loss} (running mean)", title="Training")
        right.legend(fontsize=8, loc="upper right")
    return out


def _draw_levels(axes: Axes, levels: Mapping[str, float]) -> None:
    """Dashed lines, where they lie within what is shown already."""
    low, high = axes.get_ylim()
    for value in levels.values():
        if low < value < high:
            axes.axhline(value, color="#6E6E6E", linestyle=(0, (4, 3)), linewidth=1)


def _smoothed(curve: Curve) -> Curve:
    return Curve(curve.iterations, [float(value) for value in smooth(curve.values, len(curve.values) // 8 + 1)])


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
    """The iterations that all curves have, and their values there, (seeds, iterations)."""
    tables = [dict(zip(curve.iterations, curve.values, strict=True)) for curve in curves]
    shared = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    return shared, np.array([[table[i] for i in shared] for table in tables])
