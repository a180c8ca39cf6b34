"""Copies of networks, of those as well that keep what they computed last."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def copy_network(net: Network) -> Network:
    """Copy a network deeply.

    torch refuses to copy tensors that are results with a gradient. The older ``weight_norm`` and ``spectral_norm``
    keep such a one as their module's weight and compute it anew in each forward, so that its value is all to copy.
    """
    kept = [t for module in net.modules() for t in vars(module).values() if isinstance(t, Tensor) and not t.is_leaf]
    return deepcopy(net, {id(t): t.detach().clone() for t in kept})
