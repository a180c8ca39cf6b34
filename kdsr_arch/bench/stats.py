"""Means and spreads over the seeds of a bench."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def gains(group: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> list[float]:
    """PSNR of a row's outcomes over another's, seed by seed, each the mean over the data sets that both have."""
    by_seed = {outcome["seed"]: outcome["val"] for outcome in plain}
    pairs = [(outcome["val"], by_seed[outcome["seed"]]) for outcome in group if outcome["seed"] in by_seed]
    differences = [
        [mine[k]["psnr"] - theirs[k]["psnr"] for k in mine if "psnr" in mine[k] and k in theirs]
        for mine, theirs in pairs
    ]
    return [statistics.fmean(numbers) for numbers in differences if numbers]


def spread(numbers: list[float]) -> dict[str, float]:
    """Mean and sample standard deviation (0 for a single number) of the seeds' results."""
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return {"mean": statistics.fmean(numbers), "std": deviation, "values": numbers}  # type: ignore[dict-item]


def spread_text(entry: Mapping[str, Any], digits: int, sign: str = "") -> str:
    """A :func:`spread` as "mean ± deviation"; a single value has no spread, which is not the same as one of zero.

    Args:
        sign: '+' to show that of positive means as well.
    """
    mean = f"{entry['mean']:{sign}.{digits}f}"
    return f"{mean} ± {entry['std']:.{digits}f}" if len(entry["values"]) > 1 else mean
