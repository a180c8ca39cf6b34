"""Linear filters along one axis (resizing, blurring) as banded matrices, kept as dense blocks along the diagonal.

A block yields some consecutive output samples from the input samples they need, the border folded in. Small dense
products run near peak speed on every device and are differentiable as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Block(NamedTuple):
    """Consecutive output samples: ``matrix`` (outputs, stop - start) applied to input samples start..stop."""

    start: int
    stop: int
    matrix: Tensor


def inside(position: np.ndarray, length: int, border: str) -> np.ndarray:
    """Map unbounded sample positions to positions 0..length-1 under a border rule.

    Args:
        border: ``'replicate'`` (aaa|abc), ``'symmetric'`` (cba|abc) or ``'reflect'`` (dcb|abcd).
    """
    if border == "replicate":
        return position.clip(0, length - 1)
    edge = 0 if border == "symmetric" else 1  # whether the outermost sample is repeated
    period = max(1, 2 * (length - edge))
    position = position % period
    return np.where(position < length, position, period - 1 + edge - position)


class BlockCache:
    """Keeps the blocks that ``build(*key)`` makes, except while a network is being compiled or exported.

    What is made then are stand-ins of tensors, which must not reach a later call.
    """

    def __init__(self, build: Callable[..., tuple[Block, ...]], size: int = 256) -> None:
        self._build, self._kept = build, lru_cache(maxsize=size)(build)

    def __call__(self, *key: Hashable) -> tuple[Block, ...]:
        return self._build(*key) if torch.compiler.is_compiling() else self._kept(*key)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.cache_clear()


def build_blocks(
    position: np.ndarray, weight: np.ndarray, size: int, dtype: torch.dtype, device: torch.device
) -> tuple[Block, ...]:
    """Build blocks of ``size`` outputs.

    Args:
        position: (outputs, taps), whole numbers inside the input; a sample may occur several times.
        weight: (outputs, taps).
        dtype: float32 or float64.
    """
    blocks = []
    for first in range(0, len(weight), size):
        places, factors = position[first : first + size], weight[first : first + size]
        used = places[factors != 0]
        start, stop = int(used.min()), int(used.max()) + 1
        matrix = np.zeros((len(factors), stop - start + 1))
        row = np.broadcast_to(np.arange(len(factors))[:, None], factors.shape)
        column = np.where(factors != 0, places - start, stop - start)  # taps without weight go to a spare column
        np.add.at(matrix, (row, column), factors)
        with torch.inference_mode(False):  # blocks are kept by callers, and must serve training as well
            blocks.append(Block(start, stop, torch.tensor(matrix[:, :-1], dtype=dtype, device=device)))
    return tuple(blocks)


def whole_numbers(image: np.ndarray) -> torch.Tensor:
    """Return a uint8 or uint16 array as a tensor of whole numbers."""
    wide = image if image.dtype == np.uint8 else image.astype(np.int32)  # torch computes little with uint16
    return torch.from_numpy(np.require(wide, requirements=["C", "W"]))  # it warns of arrays that are read-only


def apply_to_rows(x: Tensor, blocks: tuple[Block, ...]) -> Tensor:
    """Map (N, H, W) of any number type to (N, H', W) in that of the blocks, converted where it is in cache."""
    weights = ((b, b.matrix.expand(len(x), -1, -1)) for b in blocks)
    parts = [torch.bmm(matrix, x[:, b.start : b.stop].to(matrix.dtype)) for b, matrix in weights]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def apply_to_columns(x: Tensor, blocks: tuple[Block, ...]) -> Tensor:
    """Map (..., W) of any number type to (..., W') in that of the blocks."""
    lines = x.reshape(-1, x.shape[-1]).to(blocks[0].matrix.dtype)
    parts = [lines[:, b.start : b.stop] @ b.matrix.T for b in blocks]
    return torch.cat(parts, 1).view(*x.shape[:-1], -1)


def keys_kernel(x: np.ndarray) -> np.ndarray:
    """Evaluate Keys' cubic convolution kernel, a = -1/2 (IEEE TASSP 1981): nonzero within two samples."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
