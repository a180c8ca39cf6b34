"""Endless frames cut into pieces that a network takes at once, each with the context it needs on either side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from kdsr_arch.device import autocast
from kdsr_arch.errors import UserError
from kdsr_arch.infer.tiles import lr_multiple, restore_tiled
from kdsr_arch.upscale.model import Model

T = TypeVar("T")

RECURRENT_CONTEXT = 5
"""Frames on either side that a recurrent network sees beyond a piece: what lies farther hardly changes its output."""

_RECURRENT_FRAMES = 20
# LR pixels given to the network at once: more gains nothing on a CPU, and a GPU is filled by then.
_PIXELS_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 18}
_FRAMES_AT_ONCE = 16
_SMALLEST_TILE = 16


@dataclass(frozen=True)
class Piece:
    """Frames with context; ``frames[first:first + count]`` are those to restore."""

    frames: list[Tensor]
    first: int
    count: int


def pieces(
    frames: Iterable[T], count: int, context: int, before: Sequence[T] = ()
) -> Iterator[tuple[list[T], int, int]]:
    """(frames, first, count) of each piece of at most ``count`` frames, in order, all frames exactly once.

    Args:
        frames: in order.
        count: frames to restore at once.
        context: frames wanted on either side; fewer at the ends.
        before: frames that precede the first one (at most ``context``), when a stream goes on.
    """
    held, first = list(before), len(before)
    for frame in frames:
        held.append(frame)
        if len(held) == first + count + context:
            yield held, first, count
            keep = min(context, first + count)
            held, first = held[first + count - keep :], keep
    while len(held) > first:
        now = min(count, len(held) - first)
        yield held, first, now
        keep = min(context, first + now)
        held, first = held[first + now - keep :], keep


class Restorer:
    """Upscales streams of LR frames.

    Args:
        model: the network.
        tile: side of a tile in LR pixels; 0 for whole frames.
        overlap: LR pixels that a tile sees beyond its edges.
        batch: frames at once; 0 chooses.
    """

    def __init__(self, model: Model, tile: int = 0, overlap: int = 32, batch: int = 0) -> None:
        self.model, self.tile, self.overlap, self.batch = model, tile, overlap, batch

    @property
    def context(self) -> int:
        """Frames on either side that restoring one frame may need."""
        traits = self.model.traits
        return RECURRENT_CONTEXT if traits.mode == "recurrent" else traits.num_frame // 2

    def frames_at_once(self, height: int, width: int) -> int:
        """Frames per call of the network for LR frames of this size."""
        if self.batch:
            return self.batch
        if self.model.traits.mode == "recurrent":
            return _RECURRENT_FRAMES
        budget = _PIXELS_AT_ONCE.get(self.model.device.type, 1 << 15)
        return min(max(budget // (height * width), 1), _FRAMES_AT_ONCE)

    def stream(self, frames: Iterable[Tensor], count: int, before: Sequence[Tensor] = ()) -> Iterator[Tensor]:
        """Each frame (C, h, w) upscaled to (C, H, W), in order; beyond the ends of the clip frames are repeated.

        Args:
            frames: LR frames in [0, 1], on any device.
            count: frames at once (`frames_at_once`).
            before: up to `context` frames that precede them.
        """
        for held, first, now in pieces(frames, count, self.context, before):
            yield from self.restore(Piece(held, first, now))

    def restore(self, piece: Piece) -> Tensor:
        """The wanted frames of a piece, (N, C, H, W) float, in the colour of the input.

        Where memory runs out after all, tiles are halved and the piece is done again.

        Raises:
            UserError: it runs out at the smallest tile, too.
        """
        while True:
            try:
                return self._restore(piece)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                height, width = piece.frames[0].shape[-2:]
                self.tile = (self.tile or max(height, width)) // 2
                if self.tile < _SMALLEST_TILE:
                    raise UserError(
                        f"too little memory on {self.model.device} for one tile of {2 * self.tile} LR "
                        "pixels; close other programs, lower --overlap or --batch, or take a smaller "
                        "network"
                    ) from None

    @torch.inference_mode()
    def _restore(self, piece: Piece) -> Tensor:
        traits = self.model.traits
        lq = torch.stack(self._with_ends(piece)).to(self.model.device)
        if traits.mode == "image":
            return self._tiled(lq, None)
        if traits.mode == "window":
            return self._tiled(lq[None], piece.count)[0]
        return self._tiled(lq[None], None)[0, piece.first : piece.first + piece.count]

    def _with_ends(self, piece: Piece) -> list[Tensor]:
        """The frames that the network is given: windows filled by repetition, clips never too short."""
        traits, frames = self.model.traits, piece.frames
        if traits.mode == "image":
            return frames[piece.first : piece.first + piece.count]
        if traits.mode == "recurrent":
            return frames + [frames[-1]] * max(traits.min_clip - len(frames), 0)
        reach = traits.num_frame // 2
        after = len(frames) - piece.first - piece.count
        inner = frames[max(piece.first - reach, 0) : len(frames) - max(after - reach, 0)]
        return [inner[0]] * max(reach - piece.first, 0) + inner + [inner[-1]] * max(reach - after, 0)

    def _tiled(self, lq: Tensor, clip: int | None) -> Tensor:
        traits, runner = self.model.traits, self.model.runner
        chunk = lq.shape[1] if lq.dim() == 5 else 1

        def call(part: Tensor) -> Tensor:
            with autocast(self.model.device, self.model.amp):
                restored = runner.restore(part) if clip is None else runner.restore(part, clip, chunk=chunk)
            return restored.float()

        tile = max(self.tile, traits.min_size) if self.tile else 0
        return restore_tiled(call, lq, traits.scale, tile, self.overlap, lr_multiple(traits))


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
