"""Trying a loss once before a training, without a trace in what is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.distill.taps import Feature
from kdsr_arch.errors import ProgramFault, UserError


def try_loss(
    where: str, kind: str, given: Sequence[Feature], compute: Callable[[], Tensor], inputs: Sequence[Tensor]
) -> None:
    """Compute a loss once, and its gradient.

    Args:
        where: its key in the option file.
        kind: the name of its class.
        given: what it compares.
        compute: returns its value.
        inputs: of which at least one must get a gradient, if there is any.

    Raises:
        UserError: it cannot work on what it is given, changes it, or gives no gradient.
    """
    watched = [(t, t._version) for feature in given for t in feature.tensors]
    with told(where, kind, given), torch.enable_grad():
        value = compute()
        grads = torch.autograd.grad(value, inputs, allow_unused=True) if inputs and value.requires_grad else []
    if any(t._version != version for t, version in watched):
        raise UserError(
            f"{where}: {kind} changes in place what it is given, which other losses are given as well: let it work on "
            "a copy (t = t - t.mean() instead of t -= t.mean())"
        )
    if inputs and all(g is None for g in grads):
        raise UserError(f"{where}: {kind} gives the student no gradient; it cannot teach")


@contextmanager
def told(where: str, kind: str, given: Sequence[Feature]) -> Iterator[None]:
    """Say of a loss that fails what it was given; see `try_loss`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
        shapes = ", ".join(map(text_of, given))
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{where}: {kind} cannot work on what it is given ({shapes}): {reason}") from error


def try_backward(sr: Tensor, net: nn.Module) -> None:
    """Run the backward pass from a network's output once; gradients are left as they were.

    Raises:
        ProgramFault: it fails, as where the network works in place on what its gradient needs.
    """
    before = [(p, p.grad) for p in net.parameters() if p.requires_grad]
    for parameter, _ in before:
        parameter.grad = None
    try:
        if before:
            sr.float().mean().backward()
    except RuntimeError as error:
        raise ProgramFault.of(error, f"network {type(net).__name__} cannot be trained: ") from error
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


def scalar(value: Any) -> Tensor:
    """Return what a loss gives as one number; ValueError where it is none."""
    if isinstance(value, (tuple, list)):  # BasicSR's PerceptualLoss: (perceptual or None, style or None)
        value = torch.stack([v for v in value if v is not None]).sum()
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"the loss returns {tuple(value.shape) if isinstance(value, Tensor) else value!r}, no scalar")
    return value.reshape(())


def text_of(feature: Feature) -> str:
    """Write the shapes of what a tap records."""
    return " + ".join("x".join(map(str, t.shape)) for t in feature.tensors)


def fork_rng(like: Tensor) -> AbstractContextManager:
    """Put the random states of the CPU and of the tensor's device back at the end."""
    return torch.random.fork_rng([like.get_device()] if like.is_cuda else [])


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put the buffers and extra state of a module back at the end."""
    buffers = [(b, b.detach().clone()) for b in module.buffers()]
    keeping = [m for m in module.modules() if type(m).get_extra_state is not nn.Module.get_extra_state]
    extra = [(m, m.get_extra_state()) for m in keeping]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, saved in buffers:
                buffer.copy_(saved)
        for part, state in extra:
            part.set_extra_state(state)
