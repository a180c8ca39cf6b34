"""What every written result has in common: versions, machine, command line, Markdown tables, strict JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import kdsr_arch

_PACKAGES = ("torch", "torchvision", "basicsr", "numpy", "opencv-python", "pillow", "lmdb")


def command_line() -> str:
    """Return the command that started this process, as one could type it."""
    first = Path(sys.argv[0]).name if sys.argv[0] else "python"
    return shlex.join([first, *sys.argv[1:]])


def versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Return the versions of kdsr, of Python, and of the packages that numbers depend on; missing ones are left out."""
    known = {"kdsr": kdsr_arch.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            known[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return known


def available_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return the processor's name, the number of cores, and the device's name.

    Args:
        device: such as 'cpu' or 'cuda:0'.
    """
    import torch

    kind = torch.device(device)
    name = torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    processor = processor or platform.processor()  # which starts a process on some systems
    return {"processor": processor, "cores": available_cores(), "device": name}


def environment() -> str:
    """Return versions and machine in one line, for logs."""
    known = versions()
    return f"Python {known['python']}, torch {known['torch']}, {machine_text()}"


def machine_text() -> str:
    """Return processor, number of cores and GPU in one line."""
    import torch

    gpu = torch.cuda.is_available()
    here = machine("cuda" if gpu else "cpu")
    return f"{here['processor']}, {here['cores']} CPU cores, {here['device'] if gpu else 'no GPU'}"


def format_value(value: float, metric: str = "") -> str:
    """Write PSNR-like values with two decimals, values below ten with four."""
    if math.isinf(value) or math.isnan(value):
        return str(value)
    return f"{value:.2f}" if abs(value) >= 10 or "psnr" in metric.lower() else f"{value:.4f}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """Write a Markdown table, without a newline at its end.

    Args:
        header: the columns' names.
        rows: texts; a '|' in them is escaped.
        numbers: right-align all columns but the first.
    """
    rule = "|---|" + ("---:|" if numbers else "---|") * (len(header) - 1)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


def strict_json(content: Any) -> str:
    """Write JSON that every reader takes: infinities, NaN, paths and other objects become texts."""
    return json.dumps(finite(content), indent=1, default=str) + "\n"


def finite(value: Any) -> Any:
    """Replace infinities and NaN by texts in nested dicts and lists: JSON has no numbers for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value
