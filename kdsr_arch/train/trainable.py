"""What the training loop asks of a model: BasicSR's method names, and a few beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn


class Trainable(Protocol):
    """Anything the loop can train. Iterations count from 1."""

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Put a batch on the device."""

    def update_learning_rate(self, current_iter: int) -> None:
        """Set the learning rates of an iteration; called once before each."""

    def optimize_parameters(self, current_iter: int) -> None:
        """One training step on the batch that was fed."""

    def check_finite(self) -> None:
        """Raise NonFiniteError, naming the term, where a loss so far was NaN or infinite."""

    def get_current_log(self) -> dict[str, float]:
        """Losses and other figures since the last call, averaged over the processes."""

    def get_current_learning_rate(self) -> list[float]:
        """One rate for each parameter group."""

    def modules(self) -> list[nn.Module]:
        """Every trained module, to be made equal on all processes."""

    def share_figures(self) -> None:
        """Called on every process before the main one saves: make equal what each has gathered for the log."""

    def training_state(self) -> dict[str, Any]:
        """Everything that `load_training_state` needs to go on as if nothing had happened: tensors and plain
        containers.
        """

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `training_state`."""

    def student_files(self) -> dict[str, dict[str, Any]]:
        """Content of each `NAME_N.pth`: {'net_g': {'params': ..., 'params_ema': ...}}."""

    def inference_network(self) -> nn.Module:
        """The network to validate and deploy: the averaged one where there is one."""

    def describe(self) -> str:
        """What is printed before training: networks, terms."""


def cpu_copy(state: Any) -> Any:
    """Nested containers with every tensor detached and copied to the CPU, so that later steps do not change them."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {k: cpu_copy(v) for k, v in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(cpu_copy(v) for v in state)
    return state


def use_channels_last(net: nn.Module) -> None:
    """Keep weights of 2-D convolutions in channels-last memory order; others (3-D convolutions) stay as they are."""
    for param in net.parameters():
        if param.dim() == 4:
            param.data = param.data.contiguous(memory_format=torch.channels_last)
