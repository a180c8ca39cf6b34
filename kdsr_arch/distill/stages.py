"""Stages of a training: which terms are active and what is frozen, as a function of the iteration alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdsr_arch.errors import UserError, nearest

PIXEL = "pixel"
"""What stages call the loss of ``pixel_opt``."""


@dataclass(frozen=True)
class Stage:
    """One stretch of the training.

    Attributes:
        last: its last iteration; the final stage goes on for ever.
        terms: names of the active terms (``'pixel'`` among them where that loss is active); None for all.
        freeze: module paths of the student, and names of terms, whose parameters stand still.
    """

    last: float
    terms: frozenset[str] | None = None
    freeze: tuple[str, ...] = ()

    def runs(self, name: str) -> bool:
        """Whether the term is active."""
        return self.terms is None or name in self.terms


def parse_stages(options: Sequence[Mapping[str, Any]] | None, terms: Iterable[str], student: nn.Module) -> list[Stage]:
    """Stages from ``train.stages``: ``[{iters, terms, freeze}, ...]``; one endless stage when there are none.

    Raises:
        UserError: a term or module that does not exist, or a stage without any term.
    """
    stages, last = [], 0
    names = [*terms]
    for number, spec in enumerate(options or (), start=1):
        where = f"train.stages[{number}]"
        last += int(spec["iters"])
        chosen = spec.get("terms")
        for name in chosen or ():
            _known(name, names, f"{where}.terms", "term")
        if chosen is not None and not chosen:
            raise UserError(f"{where}.terms: a stage needs a term; name some, or leave `terms` out for all of them")
        frozen = tuple(spec.get("freeze") or ())
        for path in frozen:
            _known(
                path,
                [*(n for n, _ in student.named_modules() if n), *(n for n in names if n != PIXEL)],
                f"{where}.freeze",
                "module of the student or term",
            )
        stages.append(Stage(last, None if chosen is None else frozenset(chosen), frozen))
    if not stages:
        return [Stage(float("inf"))]
    stages[-1] = Stage(float("inf"), stages[-1].terms, stages[-1].freeze)
    return stages


def stage_at(stages: Sequence[Stage], iteration: int) -> Stage:
    """The stage of an iteration, counted from 1."""
    return next(stage for stage in stages if iteration <= stage.last)


def _known(name: str, known: list[str], where: str, what: str) -> None:
    if name not in known:
        raise UserError(f"{where}: '{name}' is no {what}{nearest(name, known)}")


# where batch (and instance) normalisation, and spectral normalisation in its old and new form, keep theirs
_STATISTICS = ("running_mean", "weight_u", "_u")


def within(path: str, frozen: Sequence[str]) -> bool:
    """Whether the module or parameter `path` is one of `frozen` or inside one."""
    return any(path == part or path.startswith(f"{part}.") for part in frozen)


def keepers(net: nn.Module, frozen: Sequence[str] | None = None) -> list[nn.Module]:
    """The modules of `net` that move statistics, as far as they are in `frozen`; all for None.

    Dropout is left as it is: it has nothing that could move, and to freeze a module is not to change what it computes.
    """
    return [
        module
        for path, module in net.named_modules()
        if (frozen is None or within(path, frozen)) and any(module._buffers.get(k) is not None for k in _STATISTICS)
    ]


def hold(now: Iterable[nn.Module], before: Iterable[nn.Module]) -> None:
    """Put `now` into evaluation mode, and those of `before` that are not among them back into training mode."""
    held = {id(module) for module in now}
    for module in before:
        if id(module) not in held:
            module.train()
    for module in now:
        if module.training:
            module.eval()
