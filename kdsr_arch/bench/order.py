"""Whether a bench finds the order of rows that a published table has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from kdsr_arch.bench.stats import gains, spread, spread_text


def compare_order(outcomes: Sequence[Mapping[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """Per budget and neighbours in ``order``: the PSNR of the better-published row over the other, and the verdict.

    Args:
        outcomes: of all runs.
        order: rows, the published worst first.

    Returns:
        {budget, lower, higher, difference (see :func:`spread`; paired by seed, mean over the data sets), verdict}:
        'holds' or 'reversed' where the difference is more than its spread, else 'within the spread'; 'one seed' where
        there is none. What has not been run yet is left out.
    """
    found = []
    for budget in sorted({outcome["budget"] for outcome in outcomes if not outcome.get("reference")}):
        rows = {row: [o for o in outcomes if (o["row"], o["budget"]) == (row, budget)] for row in order}
        for lower, higher in pairwise(order):
            if differences := gains(rows[higher], rows[lower]):
                difference = spread(differences)
                found.append(
                    {
                        "budget": budget,
                        "lower": lower,
                        "higher": higher,
                        "difference": difference,
                        "verdict": _verdict(difference["mean"], difference["std"], len(differences)),
                    }
                )
    return found


def _verdict(mean: float, deviation: float, count: int) -> str:
    if count < 2:
        return "one seed"
    if abs(mean) <= deviation:
        return "within the spread"
    return "holds" if mean > 0 else "reversed"


def order_section(found: Sequence[Mapping[str, Any]], order: Sequence[str], source: str) -> list[str]:
    """The comparison as lines of Markdown."""
    lines = ["### The published order", "", f"{source}: {' < '.join(order)}. PSNR paired by seed:", ""]
    for record in found:
        lines.append(
            f"- {record['budget']:,} iterations, {record['higher']} over {record['lower']}: "
            f"{spread_text(record['difference'], 3, '+')} dB, {record['verdict']}"
        )
    return [*lines, ""]
