"""Record benchmark figures with their date, machine, versions and command."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdsr_arch import records
from kdsr_arch.io import write_whole


def _origin(device: torch.device | str = "cpu") -> dict[str, object]:
    """Return what the numbers depend on, and the command that measures them again."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        **records.machine(str(device)),
        "versions": records.versions(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
        ).stdout.strip(),
        "command": command(),
    }


def command() -> str:
    """Return the command that started this benchmark, as one types it in the repository's root."""
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *map(_word, sys.argv[1:])])


def _word(word: str) -> str:
    """Return a word of the command line without an absolute path: relative to the repository, or the bare name."""
    if not Path(word).is_absolute():
        return word
    root = Path(__file__).resolve().parents[1]
    return str(Path(word).relative_to(root)) if Path(word).is_relative_to(root) else Path(word).name


def save(path: Path | None, result: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
    """Write a result as JSON, the machine first; do nothing without a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": _origin(device), **result}, indent=1) + "\n"
        write_whole(path, lambda handle: handle.write(text.encode()))
