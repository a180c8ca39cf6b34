"""Restores the wanted frames of one item, a few at a time, so that memory does not grow with the clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.evaluate.items import Item
from kdsr_arch.infer.runner import Runner, window_indices
from kdsr_arch.infer.tiles import lr_multiple, restore_tiled

# LR pixels given to the network at once: more gains nothing on a CPU, and a GPU is filled by then.
_PIXELS_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 18}
_FRAMES_AT_ONCE = 16


@dataclass(frozen=True)
class Restoring:
    """How frames are restored.

    Attributes:
        padding: what stands for the frames beyond a clip's ends: replicate, reflection, reflection_circle, circle.
        tile: side of a tile in LR pixels; 0 restores whole frames.
        overlap: LR pixels that a tile sees beyond its edges.
    """

    padding: str = "replicate"
    tile: int = 0
    overlap: int = 16

    def frames(self, runner: Runner, item: Item, wanted: list[int], device: torch.device) -> Iterator[Tensor]:
        """The wanted frames of ``item``, each (C, H, W) float, in order.

        Args:
            runner: the network.
            item: an image (``wanted`` is [0]), a clip, or a window (``wanted`` is [0]: its centre frame).
            wanted: frame numbers.
            device: where the network is.
        """
        lq = item.lq.to(device)
        if runner.traits.input == "gt":
            yield from self._privileged(runner, item, wanted, device)
        elif item.kind == "image":
            yield self._restore(runner, lq[None])[0]
        elif runner.traits.mode == "recurrent":
            restored = self._restore(runner, lq[None])[0]
            centre = [len(lq) // 2]
            yield from (restored[i] for i in (centre if item.kind == "window" else wanted))
        else:
            yield from self._by_window(runner, lq, self._windows(runner, item, wanted))

    @staticmethod
    def _privileged(runner: Runner, item: Item, wanted: list[int], device: torch.device) -> Iterator[Tensor]:
        """Frames of a network that is given the ground truth in place of the LR image."""
        for index in wanted:
            truth = item.truth(index)
            if truth is None:
                raise UserError(f"'{item.name}' has no ground truth, which {type(runner.net).__name__} is given")
            yield runner.restore(truth.to(device)[None])[0]

    def _windows(self, runner: Runner, item: Item, wanted: list[int]) -> list[list[int]]:
        length, total = runner.traits.num_frame, len(item.lq)
        network = type(runner.net).__name__
        if total < length:
            raise UserError(
                f"'{item.name}' has {total} frame(s), fewer than the window of {length} that network "
                f"{network} needs: use longer clips, set num_frame: {length} in the data set, "
                "or use another network"
            )
        if item.kind == "window":
            start = total // 2 - length // 2
            return [list(range(start, start + length))]
        return [window_indices(i, total, length, self.padding) for i in wanted]

    def _by_window(self, runner: Runner, lq: Tensor, windows: list[list[int]]) -> Iterator[Tensor]:
        budget = _PIXELS_AT_ONCE.get(lq.device.type, 1 << 15)
        count = min(max(budget // (lq.shape[-2] * lq.shape[-1]), 1), _FRAMES_AT_ONCE)
        for first in range(0, len(windows), count):
            batch = torch.stack([lq[window] for window in windows[first : first + count]])
            yield from self._restore(runner, batch, clip=1)[:, 0]

    def _restore(self, runner: Runner, lq: Tensor, clip: int | None = None) -> Tensor:
        traits = runner.traits
        tile = max(self.tile, traits.min_size) if self.tile else 0
        return restore_tiled(
            lambda part: runner.restore(part, clip), lq, traits.scale, tile, self.overlap, lr_multiple(traits)
        )
