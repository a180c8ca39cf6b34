"""Writes what a test measured: CSV for programs, Markdown for people, JSON for both; each names its protocol."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import kdsr_arch
from kdsr_arch.evaluate.evaluator import EvalResult
from kdsr_arch.infer.cost import Cost
from kdsr_arch.infer.png import write_bytes

_PACKAGES = ("torch", "torchvision", "basicsr", "numpy", "opencv-python")


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
    command: str = field(default_factory=lambda: command_line())
    versions: dict[str, str] = field(default_factory=lambda: versions())


def command_line() -> str:
    """The command that started this process, as one could type it."""
    first = Path(sys.argv[0]).name if sys.argv[0] else "python"
    return shlex.join([first, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of the packages that numbers depend on."""
    found = {"kdsr": kdsr_arch.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def format_value(value: float, metric: str = "") -> str:
    """PSNR-like values with two decimals, values below ten with four."""
    if math.isinf(value) or math.isnan(value):
        return str(value)
    return f"{value:.2f}" if abs(value) >= 10 or "psnr" in metric.lower() else f"{value:.4f}"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


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
    """The report as a Markdown page."""
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
    """One line per clip or image, then one per data set whose item is ``mean``."""
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
    """The whole report as strict JSON; infinite values become the text 'inf'."""
    content = asdict(report)
    for result in content["results"]:
        result["per_item"] = [{"name": name, "frames": count, **values} for name, values, count in result["per_item"]]
    return strict_json(content)


def strict_json(content: Any) -> str:
    """JSON that every reader takes: infinities and NaN become texts, paths and other objects as well."""
    return json.dumps(_finite(content), indent=1, default=str) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def write_results(report: TestReport, folder: Path) -> list[Path]:
    """Write ``results.csv``, ``results.md`` and ``results.json`` into ``folder``, each whole or not at all."""
    texts = {"results.csv": csv_text(report), "results.md": markdown(report), "results.json": json_text(report)}
    for name, text in texts.items():
        write_bytes(folder / name, text.encode())
    return [folder / name for name in texts]
