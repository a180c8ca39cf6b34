"""Writes what a test measured: CSV for programs, Markdown for people, JSON for both; each names its protocol."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdsr_arch.evaluate.evaluator import EvalResult
from kdsr_arch.infer.cost import Cost
from kdsr_arch.io import write_bytes
from kdsr_arch.records import command_line, format_value, markdown_table, strict_json, versions


@dataclass(frozen=True)
class TestReport:
    """All that one run of the test measured.

    Attributes:
        name: the experiment's name.
        network: the network's type and keywords.
        weights: the file the weights came from, or None.
        cost: parameters, multiply-adds and run time, or None where not measured.
        results: one entry a data set.
        command: the command line.
        versions: of Python and the packages that matter.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    name: str
    network: dict[str, Any]
    weights: str | None
    cost: Cost | None
    results: list[EvalResult]
    command: str = field(default_factory=command_line)
    versions: dict[str, str] = field(default_factory=versions)


def _result_table(result: EvalResult) -> str:
    metrics = list(result.mean)
    rows = [
        [name, str(count), *(format_value(values[m], m) if m in values else "-" for m in metrics)]
        for name, values, count in result.per_item
    ]
    frames = str(sum(count for _, _, count in result.per_item))
    rows.append([f"**mean over {result.unit}**", frames, *(f"**{format_value(result.mean[m], m)}**" for m in metrics)])
    if result.unit == "clips" and len(result.per_item) > 1:
        values = [format_value(result.frame_mean[m], m) if m in result.frame_mean else "-" for m in metrics]
        rows.append(["mean over all frames", frames, *values])
    return markdown_table([result.unit[:-1], "frames", *metrics], rows)


def markdown(report: TestReport) -> str:
    """Write the report as a Markdown page."""
    weights = f"weights {report.weights}" if report.weights else "no weights"
    lines = [f"# {report.name}", "", f"Network {report.network.get('type', '?')}, {weights}.", ""]
    if report.cost is not None:
        lines += [f"{report.cost}", ""]
    for result in report.results:
        lines += [f"## {result.dataset}", "", f"Protocol: {result.protocol}.", "", _result_table(result), ""]
    lines += [
        "---",
        "",
        f"Command: `{report.command}`",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in report.versions.items()) + ".",
        "",
    ]
    return "\n".join(lines)


def csv_text(report: TestReport) -> str:
    """Write one line per clip or image, then one per data set whose item is ``mean``."""
    metrics = list(dict.fromkeys(name for result in report.results for name in result.mean))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["network", "dataset", "item", "frames", *metrics, "protocol"])
    for result in report.results:
        total = sum(count for _, _, count in result.per_item)
        for name, values, count in [*result.per_item, ("mean", result.mean, total)]:
            numbers = [f"{values[m]:.6f}" if m in values else "" for m in metrics]
            writer.writerow([report.name, result.dataset, name, count, *numbers, result.protocol])
    return buffer.getvalue()


def json_text(report: TestReport) -> str:
    """Write the whole report as strict JSON; infinite values become the text 'inf'."""
    content = asdict(report)
    for result in content["results"]:
        result["per_item"] = [{"name": name, "frames": count, **values} for name, values, count in result["per_item"]]
    return strict_json(content)


def write_results(report: TestReport, folder: Path) -> list[Path]:
    """Write ``results.csv``, ``results.md`` and ``results.json`` into ``folder``, each whole or not at all."""
    texts = {"results.csv": csv_text(report), "results.md": markdown(report), "results.json": json_text(report)}
    for name, text in texts.items():
        write_bytes(folder / name, text.encode())
    return [folder / name for name in texts]
