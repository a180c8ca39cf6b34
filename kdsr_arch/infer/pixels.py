"""Between whole numbers, as files hold them, and floats in [0, 1], as networks take them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.io import write_bytes

_WHITE = 2.0  # ringing may lead a little beyond 1; an image in 0 to 255 goes far beyond


def to_float(image: NDArray) -> Tensor:
    """Turn whole numbers into floats.

    Args:
        image: (h, w, C) uint8 or uint16, RGB or gray.

    Returns:
        (C, h, w) float32 in [0, 1].
    """
    planar = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)
    planar *= np.float32(1 / np.iinfo(image.dtype).max)
    return torch.from_numpy(planar)


def to_pixels(image: Tensor, dtype: type[np.unsignedinteger] = np.uint8) -> NDArray:
    """Turn floats into whole numbers, clamped to [0, 1] and rounded to the nearest step as BasicSR's tensor2img does.

    Args:
        image: (C, H, W).
        dtype: uint8 or uint16.

    Returns:
        (H, W, C), channels in the order given.
    """
    peak = np.iinfo(dtype).max
    whole = image.detach().float().mul(float(peak)).round_().clamp_(0, peak)
    narrow = whole.to(torch.uint8) if peak == 255 else whole.to(torch.int32)
    array = narrow.permute(1, 2, 0).contiguous().cpu().numpy()
    return array if peak == 255 else array.astype(dtype)


def finite(image: Tensor, what: str, why: str = "its weights are damaged, or its training went wrong") -> Tensor:
    """Return a network's output if all of it is finite; as whole numbers, NaN would be black and infinity white.

    Args:
        image: of any shape.
        what: gives it, such as 'FILE: network NET'.
        why: it may give something else.

    Raises:
        UserError: some of it is not.
    """
    if not bool(torch.stack(image.detach().aminmax()).isfinite().all()):
        raise UserError(f"{what} gives NaN or infinity: {why}")
    return image


def to_bgr(image: Tensor) -> NDArray[np.uint8]:
    """Turn (C, H, W) float RGB or Y into (H, W, C) uint8 BGR or Y, the form of OpenCV and of the metrics."""
    array = to_pixels(image)
    return np.ascontiguousarray(array[..., ::-1] if array.shape[2] == 3 else array)


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Save (H, W, C) uint8 BGR or Y as PNG, whole or not at all, with the folders above it.

    Raises:
        UserError: an image that PNG cannot hold, or a file that cannot be written.
    """
    done, encoded = cv2.imencode(".png", image)
    if not done:
        raise UserError(f"cannot encode {path} as PNG: an image of shape {image.shape}")
    write_bytes(path, encoded.tobytes())


def beyond_white(values: Tensor) -> str:
    """Say that images are not in [0, 1]; empty where they are, but for ringing."""
    if not values.numel():
        return ""
    least, most = (float(value) for value in values.detach().aminmax())
    fits = -_WHITE < least <= most < _WHITE
    return "" if fits else f"floats must lie in [0, 1], got {least:g} to {most:g}: divide by 255"
