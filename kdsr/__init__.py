"""KDSR from Python: ``import kdsr``. docs/python.md walks through it.

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kdsr_arch import __version__
from kdsr_arch.errors import UserError

if TYPE_CHECKING:
    from kdsr_arch.api.distilling import Distilled, distill, loss, make_task
    from kdsr_arch.api.training import train
    from kdsr_arch.api.upscaler import Upscaler, load
    from kdsr_arch.distill.task import DistillTask, TaskOutput
    from kdsr_arch.infer.traits import Traits
    from kdsr_arch.losses.base import DistillLoss

_MODULES = {
    "Distilled": "api.distilling",
    "DistillLoss": "losses.base",
    "DistillTask": "distill.task",
    "TaskOutput": "distill.task",
    "Traits": "infer.traits",
    "Upscaler": "api.upscaler",
    "distill": "api.distilling",
    "load": "api.upscaler",
    "loss": "api.distilling",
    "make_task": "api.distilling",
    "train": "api.training",
}

__all__ = [
    "DistillLoss", "DistillTask", "Distilled", "TaskOutput", "Traits", "Upscaler", "UserError", "__version__",
    "distill", "load", "loss", "make_task", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'kdsr' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"kdsr_arch.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
