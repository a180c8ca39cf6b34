"""Names and classes of optimizers and learning-rate schedules: torch's, BasicSR's and those of its forks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

NEEDS_CLOSURE = {"LBFGS"}
SPARSE_ONLY = {"SparseAdam"}
_BASICSR = ("MultiStepRestartLR", "CosineAnnealingRestartLR")
# not makable from an option file: they take functions, schedulers or a metric
_NOT_PLAIN = {
    "LRScheduler",
    "LambdaLR",
    "MultiplicativeLR",
    "SequentialLR",
    "ChainedScheduler",
    "ReduceLROnPlateau",
    "SWALR",
}


def optimizer_names() -> list[str]:
    """Return the names that `train.optim_g.type` may have: every dense optimizer of torch.optim."""
    members = inspect.getmembers(torch.optim, inspect.isclass)
    usable = {name for name, cls in members if issubclass(cls, torch.optim.Optimizer) and name != "Optimizer"}
    return sorted(usable - NEEDS_CLOSURE - SPARSE_ONLY)


class LinearDecayLR(lr_scheduler.LRScheduler):
    """initial_lr * (1 - t / total_iter): `LinearLR` with `total_iter` in BasicSR's forks."""

    def __init__(self, optimizer: Optimizer, total_iter: int, last_epoch: int = -1) -> None:
        self.total_iter = total_iter
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group at iteration `last_epoch`."""
        weight = max(0.0, 1 - self.last_epoch / self.total_iter)
        return [weight * group["initial_lr"] for group in self.optimizer.param_groups]


def scheduler_class(name: str, keywords: Iterable[str]) -> type:
    """Return the class of a name in `scheduler_names`; `keywords` tell apart two that are called LinearLR."""
    from basicsr.models import lr_scheduler as basicsr_schedulers

    if name == "MultiStepLR" and set(keywords) & {"restarts", "restart_weights"}:
        name = "MultiStepRestartLR"  # BasicSR takes both names for it
    if name in _BASICSR:
        return getattr(basicsr_schedulers, name)
    if name == "LinearLR" and "total_iter" in keywords:
        return LinearDecayLR
    return getattr(lr_scheduler, name)


def scheduler_names() -> list[str]:
    """Return every name that `train.scheduler.type` may have."""
    members = inspect.getmembers(lr_scheduler, inspect.isclass)
    torchs = {n for n, c in members if issubclass(c, lr_scheduler.LRScheduler) and not n.startswith("_")} - _NOT_PLAIN
    return sorted({*torchs, *_BASICSR})
