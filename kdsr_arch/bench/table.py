"""The tables of `kdsr bench`: mean and spread over seeds, per row, budget, data set and metric."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from kdsr_arch.bench.order import compare_order, order_section
from kdsr_arch.bench.stats import gains, spread, spread_text


def summarise(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record per (row, budget): per data set and metric the mean, the sample standard deviation and the count.

    `gain` is the PSNR over the first row's of the same budget, mean over the data sets, seed by seed: equal seeds share
    initial weights and samples, so that their difference is steadier than either number.
    """
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome["row"], outcome["budget"]), []).append(outcome)
    first = next((o["row"] for o in outcomes if not o.get("reference")), "")
    return [_summary(row, budget, group, groups.get((first, budget), [])) for (row, budget), group in groups.items()]


def _summary(row: str, budget: int, group: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
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
    found = gains(group, plain)
    return {
        "row": row,
        "budget": budget,
        "seeds": len(group),
        "reference": bool(group[0].get("reference")),
        "metrics": {key: spread(numbers) for key, numbers in values.items()},
        "gain": spread(found) if found and row != plain[0]["row"] and not group[0].get("reference") else None,
        "ratios": {key: statistics.fmean(numbers) for key, numbers in ratios.items()},
        "seconds": statistics.fmean(seconds) if seconds else None,
    }


def markdown(summary: list[dict[str, Any]], *, command: str, protocol: str, note: str = "") -> str:
    """The summary as one Markdown table per budget; what was tested, or trained before the rows, stands in each."""
    rows = [record for record in summary if not record["reference"]]
    references = [record for record in summary if record["reference"] and record["metrics"]]
    first = rows[0]["row"] if rows else "-"
    lines = []
    for budget in sorted({record["budget"] for record in rows}) or [0]:
        records = [*references, *(record for record in rows if record["budget"] == budget)]
        columns = sorted({key for record in records for key in record["metrics"]})
        head = ["row", "seeds", *columns, f"psnr over '{first}'", "gradient ratios", "s/run"]
        lines += [f"### {budget:,} iterations", ""] if rows else []
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        lines += [_line(record, columns) for record in records] + [""]
    intro = [f"Protocol: {protocol}. Mean ± sample standard deviation over the seeds.", "", f"Command: `{command}`", ""]
    return "\n".join(intro + ([note, ""] if note else []) + lines)


def _line(record: dict[str, Any], columns: list[str]) -> str:
    cells = []
    for column in columns:
        entry = record["metrics"].get(column)
        cells.append(spread_text(entry, 4 if "ssim" in column.lower() else 3) if entry else "-")
    cells.append(spread_text(record["gain"], 3, "+") if record["gain"] else "-")
    ratios = ", ".join(f"{key.removeprefix('ratio/')} {value:.2g}" for key, value in sorted(record["ratios"].items()))
    seconds = f"{record['seconds']:.0f}" if record["seconds"] else "-"
    trained = f" ({record['budget']:,} iterations)" if record["reference"] and record["budget"] else ""
    return "| " + " | ".join([record["row"] + trained, str(record["seeds"]), *cells, ratios or "-", seconds]) + " |"


def write_tables(
    outcomes: list[dict[str, Any]],
    target: Path,
    *,
    command: str,
    protocol: str,
    note: str = "",
    published: dict[str, Any] | None = None,
) -> Path:
    """Write TARGET.json (all outcomes) and TARGET.md (the table); returns the Markdown file.

    Args:
        published: `order` of rows and `source` of a published table to compare with.
    """
    summary = summarise(outcomes)
    order = published["order"] if published else []
    compared = compare_order(outcomes, order)
    target.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"command": command, "protocol": protocol, "summary": summary, "runs": outcomes}
    if published:
        record["published"] = {**published, "found": compared}
    target.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    page = target.with_suffix(".md")
    text = markdown(summary, command=command, protocol=protocol, note=note)
    ending = "\n".join(order_section(compared, order, published["source"])) if published and compared else ""
    page.write_text(f"# {target.name}\n\n{text}\n{ending}", encoding="utf-8")
    return page
