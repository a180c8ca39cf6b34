"""The one door to BasicSR's registries, and what fills them with the classes and functions of this package."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

__all__ = ["ARCH_REGISTRY", "DATASET_REGISTRY", "LOSS_REGISTRY", "METRIC_REGISTRY", "MODEL_REGISTRY", "register_all"]

_ROOMS = {"archs": "_arch", "losses": "_loss", "data": "_dataset", "metrics": "_metric", "train": "_model"}


@cache
def register_all() -> None:
    """Import every registered file of the package once: ``archs/*_arch.py``, ``losses/*_loss.py``, and so on.

    BasicSR's own classes register as ``basicsr`` is imported.
    """
    package = Path(__file__).parent
    for room, suffix in _ROOMS.items():
        for path in sorted((package / room).glob(f"*{suffix}.py")):
            importlib.import_module(f"kdsr_arch.{room}.{path.stem}")
