"""Optimizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from kdsr_arch.errors import UserError, nearest

NEEDS_CLOSURE = {"LBFGS"}
SPARSE_ONLY = {"SparseAdam"}


def optimizer_names() -> list[str]:
    """The names that `train.optim_g.type` may have: every dense optimizer of torch.optim."""
    found = inspect.getmembers(torch.optim, inspect.isclass)
    usable = {name for name, cls in found if issubclass(cls, torch.optim.Optimizer) and name != "Optimizer"}
    return sorted(usable - NEEDS_CLOSURE - SPARSE_ONLY)


def build_optimizer(
    params: Iterable[nn.Parameter] | Iterable[Mapping[str, Any]], opt: Mapping[str, Any], key: str = "train.optim_g"
) -> torch.optim.Optimizer:
    """Make the optimizer that an option describes.

    Args:
        params: parameters or parameter groups, as torch.optim takes them.
        opt: `type` and the keywords of that torch.optim class; keywords that are None keep the class's default.
        key: where `opt` stands in the option file, for messages.

    Raises:
        UserError: unknown type or keyword, impossible value, nothing to train.
    """
    keywords = {k: tuple(v) if isinstance(v, list) else v for k, v in opt.items() if k != "type" and v is not None}
    name = opt["type"]
    if name not in optimizer_names():
        raise UserError(f"{key}.type: no optimizer named '{name}'{nearest(name, optimizer_names())}")
    cls = getattr(torch.optim, name)
    known = list(inspect.signature(cls).parameters)[1:]
    for keyword in keywords:
        if keyword not in known:
            raise UserError(f"{key}: {name} takes no '{keyword}'{nearest(keyword, known)}")
    held = list(params)
    if not held:
        raise UserError(f"{key}: no parameter to train")
    try:
        return cls(held, **keywords)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{key}: {name} refuses these values: {error}") from None
