"""One look for all plots."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsr_arch.errors import UserError
from kdsr_arch.io import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Okabe and Ito's palette: distinguishable by color-blind eyes and in print.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6E6E6E")
INK, FAINT = "#22262B", "#D8DCE1"

_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#8A9099",
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor"), "white"),
}


def require_matplotlib() -> None:
    """Raise a UserError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("plots need matplotlib, which is not installed: pip install 'kdsr[demo]'") from None


@contextmanager
def drawing(out: Path, columns: int = 1, width: float = 6.4, height: float = 4.0) -> Iterator[list[Axes]]:
    """Yield axes side by side, in one style, off-screen; the PNG is written when the block ends, whole or not at all.

    Args:
        out: the PNG.
        columns: number of axes.
        width, height: of the figure in inches, at 150 pixels each.

    Raises:
        UserError: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield list(figure.subplots(1, columns, squeeze=False)[0])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
    write_bytes(out, buffer.getvalue())


def plain_ticks(axis: Axis) -> None:
    """Write plain numbers on a logarithmic axis: 0.02, not 2 x 10^-2."""
    low, high = axis.get_view_interval()
    between = "25" if low > 0 and high / low < 300 else ""  # over many decades these would run into each other
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if between and f"{value:e}"[0] in between else "")
