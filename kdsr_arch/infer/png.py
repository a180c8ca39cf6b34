"""From float images to 8-bit ones and to files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.io import write_bytes


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """(C, H, W) float RGB or Y in [0, 1] -> (H, W, C) uint8 BGR or Y: clamped, and rounded as BasicSR's tensor2img."""
    scaled = image.detach().float().clamp(0, 1).mul(255).round().byte()
    array = scaled.permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(array[..., ::-1] if array.shape[2] == 3 else array)


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Save (H, W, C) uint8 BGR or Y as PNG, whole or not at all."""
    done, encoded = cv2.imencode(".png", image)
    if not done:
        raise UserError(f"cannot encode {path} as PNG: an image of shape {image.shape}")
    write_bytes(path, encoded.tobytes())
