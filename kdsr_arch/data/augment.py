"""Crops, flips and rotations of uint8 frames, and their way into tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kdsr_arch.data.store.codec import Window
from kdsr_arch.ops.color import luma

__all__ = ["Flip", "random_flip", "random_window", "to_tensor"]

Flip = tuple[bool, bool, bool]  # horizontal, vertical, transposed: the eight symmetries of a square


def random_window(rng: np.random.Generator, size: tuple[int, int], patch: int) -> Window:
    """A square window of ``patch`` pixels, anywhere in a frame of ``size`` (H, W)."""
    top = int(rng.integers(size[0] - patch + 1))
    left = int(rng.integers(size[1] - patch + 1))
    return Window(top, left, patch, patch)


def random_flip(rng: np.random.Generator, use_hflip: bool, use_rot: bool) -> Flip:
    """``use_hflip`` allows the horizontal flip, ``use_rot`` the vertical one and the transposition (90 degrees)."""
    horizontal, vertical, transposed = (bool(v) for v in rng.random(3) < 0.5)
    return use_hflip and horizontal, use_rot and vertical, use_rot and transposed


def _flipped(frames: np.ndarray, flip: Flip) -> np.ndarray:
    horizontal, vertical, transposed = flip
    if horizontal:
        frames = frames[:, :, ::-1]
    if vertical:
        frames = frames[:, ::-1]
    return frames.swapaxes(1, 2) if transposed else frames


def to_tensor(frames: Sequence[np.ndarray], flip: Flip = (False, False, False), color: str = "rgb") -> torch.Tensor:
    """uint8 (H, W, 3) RGB frames of one size as a float32 tensor (T, C, H, W) in [0, 1].

    Args:
        color: 'rgb', or 'y' for the luma of BT.601 in studio range (C = 1).
    """
    planar = _flipped(np.stack(frames), flip).transpose(0, 3, 1, 2)
    values = np.array(planar, np.float32, order="C")  # NumPy: a patch is so small that torch's calls would cost more
    values /= 255
    return torch.from_numpy(luma(list(values.swapaxes(0, 1)))[:, None] if color == "y" else values)
