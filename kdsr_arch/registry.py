"""Fills BasicSR's registries with the networks, losses, data sets, models and metrics of this package."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from kdsr_arch import compat  # noqa: F401

_ROOMS = {"archs": "_arch", "losses": "_loss", "data": "_dataset", "metrics": "_metric", "train": "_model"}


@cache
def register_all() -> None:
    """Import every registered file of the package once: ``archs/*_arch.py``, ``losses/*_loss.py``, and so on."""
    import basicsr  # noqa: F401  (its own classes register on import)

    package = Path(__file__).parent
    for room, suffix in _ROOMS.items():
        for path in sorted((package / room).glob(f"*{suffix}.py")):
            importlib.import_module(f"kdsr_arch.{room}.{path.stem}")
