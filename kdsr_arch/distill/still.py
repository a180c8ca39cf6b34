"""What else must stand still in a frozen module besides its parameters: statistics that a forward pass moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

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
