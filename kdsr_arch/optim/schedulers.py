"""Learning-rate schedules: BasicSR's, those of its forks, torch's, and linear warm-up over any of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

from kdsr_arch.errors import UserError, nearest

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
_POSITION = ("last_epoch", "_step_count", "_last_lr", "T_cur", "T_i")


class LinearDecayLR(lr_scheduler.LRScheduler):
    """initial_lr * (1 - t / total_iter): `LinearLR` with `total_iter` in BasicSR's forks."""

    def __init__(self, optimizer: Optimizer, total_iter: int, last_epoch: int = -1) -> None:
        self.total_iter = total_iter
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of each group at iteration `last_epoch`."""
        weight = max(0.0, 1 - self.last_epoch / self.total_iter)
        return [weight * group["initial_lr"] for group in self.optimizer.param_groups]


def scheduler_class(name: str, keywords: Mapping[str, Any]) -> type:
    """The class that `train.scheduler.type` names (with `keywords`, as two classes are called LinearLR).

    Raises:
        UserError: no such schedule.
    """
    from basicsr.models import lr_scheduler as basicsr_schedulers

    if name == "MultiStepLR" and set(keywords) & {"restarts", "restart_weights"}:
        name = "MultiStepRestartLR"  # BasicSR takes both names for it
    if name in _BASICSR:
        return getattr(basicsr_schedulers, name)
    if name == "LinearLR" and "total_iter" in keywords:
        return LinearDecayLR
    if name not in scheduler_names():
        raise UserError(f"train.scheduler.type: no schedule named '{name}'{nearest(name, scheduler_names())}")
    return getattr(lr_scheduler, name)


def scheduler_names() -> list[str]:
    """Every name that `train.scheduler.type` may have."""
    members = inspect.getmembers(lr_scheduler, inspect.isclass)
    torchs = {n for n, c in members if issubclass(c, lr_scheduler.LRScheduler) and not n.startswith("_")} - _NOT_PLAIN
    return sorted({*torchs, *_BASICSR})


def _build(optimizer: Optimizer, opt: Mapping[str, Any], total_iter: int) -> lr_scheduler.LRScheduler:
    keywords = {k: v for k, v in opt.items() if k != "type" and v is not None}
    name = opt["type"]
    cls = scheduler_class(name, keywords)
    known = list(inspect.signature(cls).parameters)[1:]
    for keyword in keywords:
        if keyword not in known:
            raise UserError(f"train.scheduler: {name} takes no '{keyword}'{nearest(keyword, known)}")
    if name == "CosineAnnealingRestartLR" and sum(keywords.get("periods", [0])) < total_iter - 1:
        periods = sum(keywords.get("periods", [0]))
        raise UserError(f"train.scheduler.periods: they end at {periods}, before train.total_iter {total_iter}")
    try:
        return cls(optimizer, **keywords)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"train.scheduler: {name} refuses these values: {error}") from None


class Schedule:
    """The learning rates of one optimizer, iteration by iteration.

    During the warm-up, iterations below `warmup`, the rate is initial_lr * iteration / warmup as in BasicSR;
    afterwards it is the schedule's own. (BasicSR's MultiStepRestartLR stays at (warmup - 1) / warmup of it for ever,
    as the schedule multiplies the rate that warm-up left; here the schedule never sees the warm-up.)
    """

    def __init__(
        self, optimizer: Optimizer, opt: Mapping[str, Any] | None, warmup: int = -1, total_iter: int = 0
    ) -> None:
        self.optimizer, self.warmup = optimizer, warmup
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.scheduler = _build(optimizer, opt, total_iter) if opt else None
        self._rates = [group["lr"] for group in optimizer.param_groups]

    def advance(self, iteration: int) -> None:
        """Set the learning rates of `iteration` (from 1); to be called once before each."""
        groups = self.optimizer.param_groups
        if iteration > 1 and self.scheduler is not None:
            self._set(self._rates)
            self.scheduler.step()
            self._rates = [group["lr"] for group in groups]
        warming = iteration < self.warmup
        self._set([g["initial_lr"] / self.warmup * iteration for g in groups] if warming else self._rates)

    def _set(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """The position in the schedule, in plain values; milestones, periods, ... stay the option file's."""
        held = vars(self.scheduler) if self.scheduler is not None else {}
        return {"rates": list(self._rates), "position": {k: held[k] for k in _POSITION if k in held}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._rates = list(state["rates"])
        if self.scheduler is not None:
            vars(self.scheduler).update(state["position"])
            vars(self.optimizer)["_opt_called"] = True  # it was, before the resume: torch need not warn
