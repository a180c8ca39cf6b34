"""Frames restored as many at once as pay, whole or in tiles; endless streams in pieces with context."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from kdsr_arch.device import autocast, own_precision, use_channels_last
from kdsr_arch.errors import UserError
from kdsr_arch.infer.pixels import finite
from kdsr_arch.infer.runner import Runner, window_indices
from kdsr_arch.infer.traits import Traits

T = TypeVar("T")

RECURRENT_CONTEXT = 5
"""Frames on either side that a recurrent network sees beyond a piece: what lies farther hardly changes its output."""

_RECURRENT_FRAMES = 20
# LR pixels given to the network at once: more gains nothing on a CPU, and a GPU is filled by then.
_PIXELS_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 18}
_FRAMES_AT_ONCE = 16
_SMALLEST_TILE = 16


class Restorer:
    """Runs a network on frames, for evaluation and for upscaling alike.

    Args:
        runner: the network.
        device: where it is.
        amp: 'no', 'bf16' or 'fp16'.
        tile: side of a tile in LR pixels; 0 for whole frames.
        overlap: LR pixels that a tile sees beyond its edges.
        batch: frames at once; 0 chooses.
    """

    def __init__(
        self, runner: Runner, device: torch.device, amp: str = "no", tile: int = 0, overlap: int = 16, batch: int = 0
    ) -> None:
        self.runner, self.device, self.amp = runner, device, amp
        self.tile, self.overlap, self.batch = tile, overlap, batch
        self._smaller: dict[tuple[int, int], int] = {}
        if amp != "no":
            use_channels_last(runner.net)  # without it, BasicVSR in bf16 on a processor takes three times as long

    @property
    def traits(self) -> Traits:
        """How the network is called."""
        return self.runner.traits

    @property
    def context(self) -> int:
        """Frames on either side that restoring one frame may need."""
        return RECURRENT_CONTEXT if self.traits.mode == "recurrent" else self.traits.num_frame // 2

    def checked(self, sr: Tensor, where: str) -> Tensor:
        """Return what was restored of ``where`` (a file, a frame) if all of it is finite.

        Raises:
            UserError: NaN or infinity, with the network's name and precision.
        """
        network = f"{where}: network {self.runner.name}"
        return (
            finite(sr, network) if self.amp == "no" else finite(sr, network, f"try fp32, as {self.amp} may not hold it")
        )

    def at_once(self, height: int, width: int) -> int:
        """Choose the frames per call of the network for LR frames of this size."""
        if self.batch:
            return self.batch
        if self.traits.mode == "recurrent":
            return _RECURRENT_FRAMES
        budget = _PIXELS_AT_ONCE.get(self.device.type, 1 << 15)
        return min(max(budget // (height * width), 1), _FRAMES_AT_ONCE)

    def tile_of(self, height: int, width: int) -> int:
        """Tell the side of a tile for frames of this LR size: the one asked for, or what memory left of it."""
        return self._smaller.get((height, width), self.tile)

    def image(self, lq: Tensor) -> Tensor:
        """Restore one image (C, h, w) to (C, H, W), float32.

        Raises:
            UserError: the network wants frames of a video.
        """
        return self._tiled(lq.to(self.device)[None])[0]

    def frames(self, lq: Tensor, wanted: Sequence[int], padding: str = "replicate") -> Tensor:
        """Restore some frames of a clip in one call of the network: (N, C, H, W) float32, in the color of the input.

        Args:
            lq: (T, C, h, w) in [0, 1], on any device.
            wanted: the numbers of the N frames. A recurrent network is given the whole clip, others their windows; a
                clip too short for a recurrent network is filled up with its last frame.
            padding: what stands for frames beyond the clip's ends: replicate, reflection, reflection_circle, circle.
        """
        if self.traits.mode == "recurrent":
            filled = torch.cat([lq, lq[-1:].expand(max(self.traits.min_clip - len(lq), 0), *lq.shape[1:])])
            return self._tiled(filled.to(self.device)[None])[0][list(wanted)]
        windows = [window_indices(i, len(lq), self.traits.num_frame, padding) for i in wanted]
        used = sorted({i for window in windows for i in window})
        windows = [[used.index(i) for i in window] for window in windows]
        return self._tiled(lq[used].to(self.device)[None], windows)[0]

    def stream(self, frames: Iterable[Tensor], count: int, before: Sequence[Tensor] = ()) -> Iterator[Tensor]:
        """Restore each frame (C, h, w) to (C, H, W), in order; beyond the ends of the clip frames are repeated.

        Args:
            frames: LR frames in [0, 1], on any device.
            count: frames at once (`at_once`).
            before: up to `context` frames that precede them.

        Raises:
            UserError: memory runs out at the smallest tile, too.
        """
        for piece, first, now in pieces(frames, count, self.context, before):
            yield from self.piece(piece, range(first, first + now))

    def piece(self, frames: Sequence[Tensor], wanted: Sequence[int]) -> Tensor:
        """Restore the wanted ones of a few frames (C, h, w), with half the tile where memory runs out.

        Raises:
            UserError: memory runs out at the smallest tile, too.
        """
        lq = torch.stack([*frames])
        size = (lq.shape[-2], lq.shape[-1])
        while True:
            try:
                with torch.inference_mode():
                    return self.frames(lq, wanted)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._smaller[size] = tile = (self.tile_of(*size) or max(size)) // 2
                if tile < _SMALLEST_TILE:
                    raise UserError(
                        f"too little memory on {self.device} for one tile of {2 * tile} LR pixels; close other "
                        "programs, lower --overlap or --batch, or take a smaller network"
                    ) from None

    def _tiled(self, lq: Tensor, windows: Sequence[Sequence[int]] | None = None) -> Tensor:
        traits = self.traits
        tile = 0 if traits.input != "lq" else self.tile_of(lq.shape[-2], lq.shape[-1])

        def call(part: Tensor) -> Tensor:
            with own_precision(self.device.type), autocast(self.device, self.amp):
                return self.runner.restore(part, windows=windows).float()

        side = max(tile, traits.min_size) if tile else 0
        return restore_tiled(call, lq, traits.scale, side, self.overlap, traits.lr_multiple)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out, on a GPU or for torch, NumPy or OpenCV on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(error) for sign in ("can't allocate memory", "Insufficient memory"))


def pieces(
    frames: Iterable[T], count: int, context: int, before: Sequence[T] = ()
) -> Iterator[tuple[list[T], int, int]]:
    """Cut frames into pieces with context.

    Args:
        frames: in order.
        count: frames to restore at once.
        context: frames wanted on either side; fewer at the ends.
        before: frames that precede the first one (at most ``context``), when a stream goes on.

    Yields:
        (piece, first, number): frames ``piece[first:first + number]`` are to be restored, at most ``count`` of them;
        every frame once, in order.
    """
    piece, first, rest = list(before), len(before), iter(frames)
    while True:
        piece += itertools.islice(rest, first + count + context - len(piece))
        now = min(count, len(piece) - first)
        if now < 1:
            return
        yield piece, first, now
        keep = min(context, first + now)
        piece, first = piece[first + now - keep :], keep


def restore_tiled(
    restore: Callable[[Tensor], Tensor], lq: Tensor, scale: int, tile: int, overlap: int = 16, multiple: int = 1
) -> Tensor:
    """Compute ``restore(lq)`` on overlapping tiles.

    The result equals the whole within float error when ``overlap`` is at least the radius of the network's receptive
    field in LR pixels. Networks with global operations (channel attention over the whole frame, non-local blocks) have
    no such radius: their tiles differ a little from the whole.

    Args:
        restore: maps (..., h, w) to (..., h * scale, w * scale); the leading dimensions may change.
        lq: images (B, C, h, w) or clips (B, T, C, h, w).
        tile: height and width of a tile in LR pixels without its overlap; 0 for the whole at once.
        overlap: LR pixels that each tile sees beyond its edge.
        multiple: tile corners fall on multiples of this (``Traits.lr_multiple``).
    """
    height, width = lq.shape[-2:]
    if tile == 0 or (height <= tile and width <= tile):
        return restore(lq)
    rows = []
    for top, bottom, outer_top, outer_bottom in _spans(height, tile, overlap, multiple):
        row = []
        for left, right, outer_left, outer_right in _spans(width, tile, overlap, multiple):
            part = restore(lq[..., outer_top:outer_bottom, outer_left:outer_right])
            part = part[..., (top - outer_top) * scale : (bottom - outer_top) * scale, :]
            row.append(part[..., (left - outer_left) * scale : (right - outer_left) * scale])
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)


def _spans(length: int, tile: int, overlap: int, multiple: int) -> list[tuple[int, int, int, int]]:
    """(start, end, outer start, outer end) of each tile along one side; the tiles are of nearly equal length.

    Starts are multiples of ``multiple``, so that strided layers see the same grid as in the whole frame.
    """
    count = math.ceil(length / tile)
    core = math.ceil(length / count / multiple) * multiple
    reach = math.ceil(overlap / multiple) * multiple
    return [
        (start, min(start + core, length), max(start - reach, 0), min(start + core + reach, length))
        for start in range(0, length, core)
    ]
