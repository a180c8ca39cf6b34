"""Stages of a training: which terms are active and what is frozen, as a function of the iteration alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from kdsr_arch.errors import UserError, nearest
from kdsr_arch.options.schema_train import StageOptions

PIXEL = "pixel"
"""What stages call the loss of ``pixel_opt``."""


@dataclass(frozen=True)
class Stage:
    """One stretch of the training.

    Attributes:
        last: its last iteration, counted from 1; the final stage goes on for ever.
        terms: names of the active terms, ``'pixel'`` among them where that loss is active.
        freeze: module paths of the student, and names of terms, whose parameters stand still.
    """

    last: float
    terms: frozenset[str]
    freeze: tuple[str, ...] = ()


def parse_stages(options: Sequence[StageOptions], terms: Iterable[str], student: nn.Module) -> list[Stage]:
    """Make the stages of ``train.stages``, each beginning where the one before it ends; one endless stage of none.

    Args:
        terms: names of all terms, and ``'pixel'`` where there is a pixel loss.

    Raises:
        UserError: a module that does not exist, or a stage without any term.
    """
    names = [*terms]
    stages, last = [], 0
    for number, section in enumerate(options):
        where = f"train.stages.{number}"
        last += section.iters
        chosen = names if section.terms is None else section.terms
        if section.terms is not None and not chosen:
            raise UserError(f"{where}.terms: a stage needs a term; name some, or leave `terms` out for all of them")
        parts = [*(n for n, _ in student.named_modules() if n), *(n for n in names if n != PIXEL)]
        for path in section.freeze:
            if path not in parts:
                raise UserError(f"{where}.freeze: '{path}' is no module of the student or term{nearest(path, parts)}")
        stages.append(Stage(last, frozenset(chosen), tuple(section.freeze)))
    return [*stages[:-1], replace(stages[-1], last=math.inf)] if stages else [Stage(math.inf, frozenset(names))]


def check_trains(student: nn.Module) -> None:
    """Refuse a student with nothing to train.

    Raises:
        UserError: it has no parameter, or all of them are frozen.
    """
    if not any(p.requires_grad for p in student.parameters()):
        advice = "student.requires_grad_() makes them all trainable"
        if not any(True for _ in student.parameters()):
            advice = f"{type(student).__name__} has none at all; take another network"
        raise UserError(f"the student has no parameter to train: {advice}")


# where batch (and instance) normalization, and spectral normalization in its old and new form, keep what they measure
_STATISTICS = ("running_mean", "weight_u", "_u")


def within(path: str, frozen: Sequence[str]) -> bool:
    """Tell whether the module or parameter `path` is one of `frozen` or inside one."""
    return any(path == part or path.startswith(f"{part}.") for part in frozen)


def keepers(net: nn.Module, frozen: Sequence[str] | None = None) -> list[nn.Module]:
    """Find the modules of `net` that move statistics, as far as they are in `frozen`; all for None.

    Dropout is left as it is: it has nothing that could move, and to freeze a module is not to change what it computes.
    """
    return [
        module
        for path, module in net.named_modules(remove_duplicate=False)
        if (frozen is None or within(path, frozen)) and any(module._buffers.get(k) is not None for k in _STATISTICS)
    ]


def hold(now: Iterable[nn.Module], before: Iterable[nn.Module]) -> None:
    """Put `now` into evaluation mode, and those of `before` that are not among them back into training mode."""
    staying = {id(module) for module in now}
    for module in before:
        if id(module) not in staying:
            module.train()
    for module in now:
        if module.training:
            module.eval()
