"""Optical flow as images of 16 bits, in the form of KITTI's development kit, which every tool for flow reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.data.augment import Crop, Flip, apply_flip, flip_flow

if TYPE_CHECKING:
    from kdsr_arch.data.sources import FrameSource

FLOW_SIDE = "flow"
"""The version of a store's frames that holds the flow from each of them to the next, see LmdbSource."""
_STEPS = 64  # of a pixel
_ZERO = 1 << 15


def flow_image(vectors: NDArray, visible: NDArray) -> NDArray[np.uint16]:
    """Turn a flow into an image (H, W, 3) of uint16: 64 dx + 2^15, 64 dy + 2^15, and 1 where it is visible.

    Args:
        vectors: (2, H, W), (dx, dy) in pixels; rounded to 1/64, and not visible beyond 511 pixels.
        visible: (1, H, W), 0 or 1.
    """
    steps = np.rint(vectors * _STEPS) + _ZERO
    seen = (visible > 0) & ((steps >= 0) & (steps < 2 * _ZERO)).all(0)
    image = np.concatenate([steps.clip(0, 2 * _ZERO - 1), seen])
    return np.ascontiguousarray(image.transpose(1, 2, 0).astype(np.uint16))


def read_flow_image(image: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Invert :func:`flow_image`."""
    planes = image.transpose(2, 0, 1).astype(np.float32)
    return (planes[:2] - np.float32(_ZERO)) / np.float32(_STEPS), (planes[2:] > 0).astype(np.float32)


def stays_inside(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Tell which pixels of a flow (T, 2, H, W) end inside its frame, up to its rounding: (T, 1, H, W), 1 or 0."""
    height, width = vectors.shape[-2:]
    across, down = vectors[:, :1] + np.arange(width), vectors[:, 1:] + np.arange(height)[:, None]
    return (between(across, 0, width, 1 / _STEPS) & between(down, 0, height, 1 / _STEPS)).astype(np.float32)


def between(position: NDArray, first: int, count: int, room: float) -> NDArray[np.bool_]:
    """Tell which positions lie on a row of `count` pixels from `first` on, or at most `room` beside it."""
    return (position >= first - room) & (position <= first + count - 1 + room)


def read_flow(
    source: FrameSource, keys: Sequence[str], area: Crop, flip: Flip, cut: bool
) -> dict[str, NDArray[np.float32]]:
    """Read flow (T, 2, h, w) and visible (T, 1, h, w) under an area of T frames, flipped as the frames are.

    Args:
        cut: the area is a part of the frames; what leaves it then counts as not visible.
    """
    images = map(read_flow_image, source.get_many(keys, area))
    vectors, visible = (np.stack(planes) for planes in zip(*images, strict=True))
    if cut:
        visible *= stays_inside(vectors)
    planes = {"flow": flip_flow(vectors, flip), "visible": apply_flip(visible, flip)}
    return {name: np.ascontiguousarray(value) for name, value in planes.items()}
