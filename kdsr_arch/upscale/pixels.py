"""Between arrays of whole numbers, as files hold them, and tensors in [0, 1], as networks take them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(image: NDArray, peak: float | None = None) -> Tensor:
    """(h, w, C) uint8 or uint16 -> (C, h, w) float32 in [0, 1].

    Args:
        image: channels last, RGB or grey.
        peak: the value that becomes 1; absent: 255 or 65535.
    """
    planar = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)
    planar *= np.float32(1 / (peak or np.iinfo(image.dtype).max))
    return torch.from_numpy(planar)


def to_array(image: Tensor, dtype: type[np.unsignedinteger] = np.uint8) -> NDArray:
    """(C, H, W) float -> (H, W, C) ``dtype``: clamped to [0, 1] and rounded to the nearest step."""
    peak = np.iinfo(dtype).max
    whole = image.detach().float().mul(float(peak)).round_().clamp_(0, peak)
    narrow = whole.to(torch.uint8) if peak == 255 else whole.to(torch.int32)
    array = narrow.permute(1, 2, 0).contiguous().cpu().numpy()
    return array if peak == 255 else array.astype(dtype)
