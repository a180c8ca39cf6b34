"""Crops and flips of frames, and their way into tensors.

A flip is one of the eight symmetries of a square: left to right, then top to bottom, then rows and columns exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from kdsr_arch.errors import UserError

if TYPE_CHECKING:  # stores are read and written without torch, which takes seconds to import
    import torch

Flip = tuple[bool, bool, bool]  # horizontal, vertical, transposed
NO_FLIP: Flip = (False, False, False)


class Crop(NamedTuple):
    """A rectangle of a frame in pixels: top, left, height, width."""

    top: int
    left: int
    height: int
    width: int

    def scaled(self, factor: int) -> Crop:
        """Return the same rectangle of a frame ``factor`` times as large."""
        return Crop(self.top * factor, self.left * factor, self.height * factor, self.width * factor)

    def of(self, frame: np.ndarray) -> np.ndarray:
        """Return the view of a (H, W, ...) array under this rectangle."""
        return frame[self.top : self.top + self.height, self.left : self.left + self.width]


def check_crop(crop: Crop, size: tuple[int, int], name: str) -> None:
    """Raise UserError unless ``crop`` lies inside a frame of ``size`` (H, W)."""
    top, left, height, width = crop
    if min(top, left) < 0 or min(height, width) < 1 or top + height > size[0] or left + width > size[1]:
        raise UserError(
            f"{name}: a crop of {height}x{width} at ({top}, {left}) does not fit a frame of {size[0]}x{size[1]}"
        )


def cut(frame: np.ndarray, crop: Crop | None, name: str) -> np.ndarray:
    """Return the view of a frame under a crop, or the frame; raise UserError for a crop that leaves it."""
    if crop is None:
        return frame
    check_crop(crop, (frame.shape[0], frame.shape[1]), name)
    return crop.of(frame)


def random_crop(rng: np.random.Generator, size: tuple[int, int], patch: int) -> Crop:
    """Draw a square of ``patch`` pixels, anywhere in a frame of ``size`` (H, W)."""
    top = int(rng.integers(size[0] - patch + 1))
    left = int(rng.integers(size[1] - patch + 1))
    return Crop(top, left, patch, patch)


def window_sums(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Add up (H, W) under a window at each of its places: (H - height + 1, W - width + 1) float64."""
    sums = cv2.integral(values)
    return sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]


def random_flip(rng: np.random.Generator, use_hflip: bool, use_rot: bool) -> Flip:
    """Draw a flip: ``use_hflip`` allows the horizontal one, ``use_rot`` the vertical one and the transposition."""
    horizontal, vertical, transposed = (bool(v) for v in rng.random(3) < 0.5)
    return use_hflip and horizontal, use_rot and vertical, use_rot and transposed


def allowed_flips(use_hflip: bool, use_rot: bool) -> list[int]:
    """Return the numbers (:func:`flip_number`) of the flips that :func:`random_flip` draws from."""
    return [n for n in range(8) if (use_hflip or not n & 1) and (use_rot or not n & 6)]


def flip_number(flip: Flip) -> int:
    """Return the number of a flip, 0 to 7."""
    return sum(bool(on) << place for place, on in enumerate(flip))


def flip_of(number: int) -> Flip:
    """Return the flip of a number, 0 to 7."""
    return bool(number & 1), bool(number & 2), bool(number & 4)


def apply_flip(planes: np.ndarray, flip: Flip) -> np.ndarray:
    """Flip arrays (..., H, W); the result is a view."""
    horizontal, vertical, transposed = flip
    planes = planes[..., :: -1 if vertical else 1, :: -1 if horizontal else 1]
    return planes.swapaxes(-1, -2) if transposed else planes


def flip_flow(vectors: np.ndarray, flip: Flip) -> np.ndarray:
    """Flip a flow (..., 2, H, W), (dx, dy): the arrows are mirrored, too."""
    horizontal, vertical, transposed = flip
    signs = np.array([-1 if horizontal else 1, -1 if vertical else 1], vectors.dtype)
    flipped = apply_flip(vectors * signs[:, None, None], flip)
    return flipped[..., ::-1, :, :] if transposed else flipped


def undo_flip(planes: np.ndarray, flip: Flip) -> np.ndarray:
    """Invert :func:`apply_flip`."""
    horizontal, vertical, transposed = flip
    return apply_flip(planes.swapaxes(-1, -2) if transposed else planes, (horizontal, vertical, False))


def eight_bits(frame: np.ndarray) -> np.ndarray:
    """Round a frame of 16 bits to 8; return one of 8 bits as it is."""
    return frame if frame.dtype == np.uint8 else ((frame.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def to_tensor(frames: Sequence[np.ndarray], flip: Flip = NO_FLIP, color: str = "rgb") -> torch.Tensor:
    """Turn uint8 or uint16 (H, W, 3) RGB frames of one size into a float32 tensor (T, C, H, W) in [0, 1].

    Args:
        color: 'rgb', or 'y' for the luma of BT.601 in studio range (C = 1).
    """
    import torch

    from kdsr_arch.ops.color import luma

    if len({frame.dtype for frame in frames}) > 1:
        frames = [frame if frame.dtype == np.uint16 else frame.astype(np.uint16) * 257 for frame in frames]
    planes = apply_flip(np.stack(frames).transpose(0, 3, 1, 2), flip)
    values = np.array(planes, np.float32, order="C")  # NumPy: a patch is so small that torch's calls would cost more
    values /= np.iinfo(frames[0].dtype).max
    return torch.from_numpy(luma(list(values.swapaxes(0, 1)))[:, None] if color == "y" else values)
