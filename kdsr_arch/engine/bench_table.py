"""The tables of `kdsr bench`: mean and spread over seeds, per row, budget, data set and metric."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any


def summarise(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record per (row, budget): per data set and metric the mean, the sample standard deviation and the count."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome["row"], outcome["budget"]), []).append(outcome)
    return [_summary(row, budget, group) for (row, budget), group in groups.items()]


def _summary(row: str, budget: int, group: list[dict[str, Any]]) -> dict[str, Any]:
    values: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    for outcome in group:
        for dataset, metrics in outcome["val"].items():
            for metric, value in metrics.items():
                if isinstance(value, (int, float)):
                    values.setdefault(f"{dataset} {metric}", []).append(value)
        for key, value in outcome["ratios"].items():
            ratios.setdefault(key, []).append(value)
    seconds = [outcome["seconds"] for outcome in group if outcome["seconds"]]
    return {"row": row, "budget": budget, "seeds": len(group),
            "metrics": {key: spread(numbers) for key, numbers in values.items()},
            "ratios": {key: statistics.fmean(numbers) for key, numbers in ratios.items()},
            "seconds": statistics.fmean(seconds) if seconds else None}


def spread(numbers: list[float]) -> dict[str, float]:
    """Mean and sample standard deviation (0 for a single number) of the seeds' results."""
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return {"mean": statistics.fmean(numbers), "std": deviation, "values": numbers}  # type: ignore[dict-item]


def markdown(summary: list[dict[str, Any]], *, command: str, protocol: str, note: str = "") -> str:
    """The summary as one Markdown table per budget."""
    lines = []
    for budget in sorted({record["budget"] for record in summary}):
        records = [record for record in summary if record["budget"] == budget]
        columns = sorted({key for record in records for key in record["metrics"]})
        head = ["row", "seeds", *columns, "gradient ratios", "s/run"]
        lines += [f"### {budget} iterations", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        lines += [_line(record, columns) for record in records] + [""]
    intro = [f"Protocol: {protocol}. Mean ± sample standard deviation over the seeds.", "", f"Command: `{command}`", ""]
    return "\n".join(intro + ([note, ""] if note else []) + lines)


def _line(record: dict[str, Any], columns: list[str]) -> str:
    cells = []
    for column in columns:
        entry = record["metrics"].get(column)
        digits = 4 if "ssim" in column.lower() else 3
        cells.append(f"{entry['mean']:.{digits}f} ± {entry['std']:.{digits}f}" if entry else "-")
    ratios = ", ".join(f"{key.removeprefix('ratio/')} {value:.2g}" for key, value in sorted(record["ratios"].items()))
    seconds = f"{record['seconds']:.0f}" if record["seconds"] else "-"
    return f"| {record['row']} | {record['seeds']} | " + " | ".join(cells) + f" | {ratios or '-'} | {seconds} |"


def write_tables(outcomes: list[dict[str, Any]], target: Path, *, command: str, protocol: str, note: str = "") -> Path:
    """Write TARGET.json (all outcomes) and TARGET.md (the table); returns the Markdown file."""
    summary = summarise(outcomes)
    target.parent.mkdir(parents=True, exist_ok=True)
    record = {"command": command, "protocol": protocol, "summary": summary, "runs": outcomes}
    target.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    page = target.with_suffix(".md")
    page.write_text(f"# {target.name}\n\n" + markdown(summary, command=command, protocol=protocol, note=note) + "\n",
                    encoding="utf-8")
    return page
