"""Training curves from the histories of experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.errors import UserError, nearest
from kdsr_arch.report.style import PALETTE, drawing, plain_ticks
from kdsr_arch.train.history import logged_number, read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FRAME = {"kind", "iter", "dataset", "protocol"}  # what a line of a validation holds beside its metrics


class Curve(NamedTuple):
    """One quantity over the iterations."""

    iterations: list[int]
    values: list[float]


def loss_curve(records: Sequence[Mapping[str, Any]], key: str = "l_pix") -> Curve:
    """Collect a logged training quantity, such as the pixel loss; empty where it was never logged."""
    return _curve([record for record in records if record.get("kind") != "val"], key)


def val_curve(records: Sequence[Mapping[str, Any]], metric: str = "psnr", dataset: str | None = None) -> Curve:
    """Collect a validation metric, of the first data set in the history that it was measured on where none is named."""
    scores = [record for record in records if record.get("kind") == "val" and metric in record]
    if dataset is None and scores:
        dataset = scores[0].get("dataset")
    return _curve([record for record in scores if record.get("dataset") == dataset], metric)


def _curve(records: Sequence[Mapping[str, Any]], key: str) -> Curve:
    points = [(record["iter"], logged_number(record.get(key))) for record in records]
    numbers = [(iteration, value) for iteration, value in points if value is not None]
    return Curve([iteration for iteration, _ in numbers], [value for _, value in numbers])


def smooth(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """Return running mean over up to ``window`` values around each point; the ends use what there is."""
    array = np.asarray(values, dtype=np.float64)
    reach = max(window, 1) // 2
    sums = np.concatenate([[0.0], np.cumsum(array)])
    low = np.maximum(np.arange(len(array)) - reach, 0)
    high = np.minimum(np.arange(len(array)) + reach + 1, len(array))
    return (sums[high] - sums[low]) / (high - low)


def plot_curves(
    experiments: Mapping[str, Path],
    out: Path,
    *,
    metric: str = "psnr",
    loss: str = "l_pix",
    dataset: str | None = None,
    levels: Mapping[str, float] | None = None,
    protocol: str = "",
) -> Path:
    """Draw the training loss and a validation metric of several experiments side by side.

    Args:
        experiments: label -> folder with a history.jsonl.
        out: the PNG to write.
        metric: validation metric to draw.
        loss: training quantity to draw (smoothed; the raw values faint behind).
        dataset: validation data set; the first logged one by default.
        levels: label -> value drawn as a dashed line beside the validation curves (teacher, bicubic).
        protocol: shown under the validation panel.

    Raises:
        UserError: a history that is missing or empty, or that holds neither the loss nor the metric.
    """
    histories = {label: list(read_history(folder)) for label, folder in experiments.items()}
    for label, records in histories.items():
        if not records:
            raise UserError(
                f"{experiments[label]}: no history.jsonl here, or nothing in it yet (a line every logger.print_freq "
                "iterations); name the folder of a training, experiments/NAME"
            )
        measured = {(r["dataset"], name) for r in records if r.get("kind") == "val" for name in r}
        if measured and not any(name == metric and dataset in (None, key) for key, name in measured):
            where = f" of data set '{dataset}'" if dataset else ""
            known = sorted(f"{name} ({key})" for key, name in measured if name not in _FRAME)
            raise UserError(f"{experiments[label]}: no {metric}{where} was measured, only {', '.join(known)}")
    trained = [r for records in histories.values() for r in records if r.get("kind") != "val"]
    logged = {key for record in trained for key in record if key not in _FRAME}
    if logged and loss not in logged:
        raise UserError(f"no {loss} was logged{nearest(loss, logged)}, only {', '.join(sorted(logged))}")
    with drawing(out, columns=2, width=10.5, height=4.0) as (left, right):
        for number, (label, records) in enumerate(histories.items()):
            color = PALETTE[number % len(PALETTE)]
            _draw_loss(left, loss_curve(records, loss), label, color)
            val = val_curve(records, metric, dataset)
            marker = "o" if len(val.iterations) < 25 else ""
            right.plot(val.iterations, val.values, color=color, label=label, markersize=4, marker=marker)
        for label, value in (levels or {}).items():
            right.axhline(value, color="#6E6E6E", linestyle=(0, (4, 3)), linewidth=1)
            text, place = f"{label} {value:.2f}", ("axes fraction", "data")
            beside: dict[str, Any] = {"xytext": (-4, 3), "textcoords": "offset points", "ha": "right"}
            right.annotate(text, (1, value), xycoords=place, fontsize=9, color="#55595F", **beside)
            right.margins(y=0.1)
        left.set(title="Training", xlabel="iteration", ylabel=f"{loss} (running mean)")
        right.set(title="Held-out frames", xlabel=f"iteration\n{protocol}".rstrip(), ylabel=metric.upper())
        left.legend(*right.get_legend_handles_labels())  # of all: one may not have logged this loss
    return out


def _draw_loss(axes: Axes, curve: Curve, label: str, color: str) -> None:
    if not curve.iterations:
        return
    axes.plot(curve.iterations, curve.values, color=color, alpha=0.18, linewidth=0.8)
    axes.plot(curve.iterations, smooth(curve.values, len(curve.values) // 12 + 1), color=color, label=label)
    low, high = axes.dataLim.intervaly
    if 0 < 10 * low <= high:  # over less than a decade, a logarithmic axis may have no number at all
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)
    else:
        axes.set_yscale("linear")
