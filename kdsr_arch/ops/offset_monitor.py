"""Watches the learned offsets of deformable alignment, which explode some time before the loss shows it.

EDVR trained at too high a learning rate, or resumed badly, ends with offsets of hundreds of pixels: every sample lies
outside of the image, the alignment yields zeros and does not recover. Means below 10 are usual.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class OffsetMonitor:
    """Remembers the largest mean offset of each deformable alignment of a network, without waiting for the device.

    Call :meth:`remove` at the end.

    Args:
        net: watched are its modules that have a ``conv_offset`` (DCNv2Pack, SecondOrderDeformableAlignment, ...).
        limit: mean absolute offset, in pixels, beyond which a module is reported.
        every: iterations between two warnings, so that a run that went wrong does not flood its log.
    """

    def __init__(self, net: nn.Module, limit: float = 50.0, every: int = 100) -> None:
        self.limit, self.every = limit, every
        self._largest: dict[str, Tensor] = {}
        self._next_report = 0
        self._handles: list[RemovableHandle] = []
        for name, module in net.named_modules():
            predictor = getattr(module, "conv_offset", None)
            if isinstance(predictor, nn.Module):
                self._handles.append(predictor.register_forward_hook(partial(self._record, name, module)))

    def __len__(self) -> int:
        """Count the watched modules."""
        return len(self._handles)

    def _record(self, name: str, alignment: nn.Module, predictor: nn.Module, inputs: Any, predicted: Tensor) -> None:
        """Note the mean of predicted (B, 3 * groups * taps, H, W): dy and dx in the first two thirds, then the mask."""
        with torch.no_grad():
            offsets = predicted.detach().float()[:, : predicted.shape[1] // 3 * 2]
            bound = getattr(alignment, "max_residue_magnitude", None)
            if bound is not None:  # BasicVSR++'s come on top of the optical flow, which is not counted
                offsets = bound * offsets.tanh()
            mean = offsets.abs().mean()
            before = self._largest.get(name)
            self._largest[name] = mean if before is None else torch.maximum(before, mean)

    def means(self) -> dict[str, float]:
        """Return largest mean absolute offset of each module since the last call of :meth:`report`; NaN stays NaN."""
        return {name: float(value) for name, value in self._largest.items()}

    def report(self, iteration: int) -> str:
        """Say which modules are beyond the limit (or not finite); '' when there is none or it is not yet time.

        Args:
            iteration: the present one. Within ``every`` iterations of a warning nothing is looked at; other calls wait
                for the device.
        """
        if iteration < self._next_report:
            return ""
        means = self.means()
        self._largest.clear()
        beyond = {name: mean for name, mean in means.items() if not mean <= self.limit}
        if not beyond:
            return ""
        self._next_report = iteration + self.every
        worst = max(beyond, key=lambda name: float("inf") if beyond[name] != beyond[name] else beyond[name])
        return (
            f"deformable offsets are exploding in {len(beyond)} of {len(means)} modules: mean |offset| is "
            f"{beyond[worst]:.4g} pixels in {worst or 'the network itself'} (limit {self.limit:g}); "
            f"resume from an earlier checkpoint with a lower learning rate"
        )

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
