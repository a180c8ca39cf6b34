"""Kernels of interpolation."""

from __future__ import annotations

import numpy as np

__all__ = ["keys_kernel"]


def keys_kernel(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel, a = -1/2 (IEEE TASSP 1981): nonzero within two samples."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
