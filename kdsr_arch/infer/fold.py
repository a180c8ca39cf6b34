"""Layers that train as several branches, replaced by the one that each computes as."""

from __future__ import annotations

import copy

from torch import nn


def foldable(net: nn.Module) -> list[str]:
    """List the paths of the layers with a method ``folded()``, which returns the layer to run in their place."""
    return [path for path, module in net.named_modules() if path and hasattr(module, "folded")]


def fold(net: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode with those layers replaced; results stay the same to rounding."""
    net = copy.deepcopy(net).eval()
    for path in foldable(net):
        parent, _, name = path.rpartition(".")
        setattr(net.get_submodule(parent), name, net.get_submodule(path).folded())  # type: ignore[operator]
    return net
