"""The kinds of input, one module each with a `TARGET`."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.fuzz.target import Target

NAMES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))


def load(name: str) -> Target:
    """Import the target of that name."""
    return importlib.import_module(f"tests.fuzz.targets.{name}").TARGET
