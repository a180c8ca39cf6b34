"""PSNR against run time: the comparison picture of the STD paper (Xiao et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdsr_arch.report.style import PALETTE, drawing, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REAL_TIME_MS = 40.0


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


def plot_speed(
    points: Sequence[SpeedPoint], out: Path, *, size: str = "180x120 x4", where: str = "CPU", protocol: str = ""
) -> Path:
    """Draw mean PSNR against run time per frame, logarithmic in time.

    Args:
        points: the networks.
        out: the PNG to write.
        size: the LR input the times hold for.
        where: the device they were taken on.
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
        axes.set(
            xlabel=f"run time per frame in ms, LR input {size} ({where})",
            title="Quality against run time",
            ylabel="PSNR in dB",
        )
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
        close = [
            p
            for p in points
            if p is not point
            and abs(p.psnr - point.psnr) < 0.12 * span
            and 0.5 < p.milliseconds / point.milliseconds < 2
        ]
        below = any(p.psnr > point.psnr for p in close)
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
