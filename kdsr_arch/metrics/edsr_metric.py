"""PSNR as EDSR's code computes it, which FAKD and PISR report: other luma weights than MATLAB's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.metrics.psnr_ssim import prepare
from kdsr_arch.registry import METRIC_REGISTRY

_WEIGHTS_BGR = np.array([25.064, 129.057, 65.738]) / 256.0


@METRIC_REGISTRY.register()
def calculate_psnr_edsr(img: NDArray, img2: NDArray, crop_border: int = 0, test_y_channel: bool = False) -> float:
    """PSNR in dB of two (H, W, C) uint8 BGR images; on Y the *difference* is weighted by (65.738, 129.057, 25.064)/256.

    Source: ``utility.calc_psnr`` of EDSR's, FAKD's and PISR's public code. On Y it lies within some 0.001 dB of
    MATLAB's luma; without Y their code leaves out scale + 6 pixels at each edge.
    """
    first, second = prepare(img, img2, crop_border, False)
    difference = np.subtract(first, second, dtype=np.float64)
    if test_y_channel and difference.shape[2] == 3:
        difference = difference @ _WEIGHTS_BGR
    mse = float(np.mean(difference**2))
    return float("inf") if mse == 0 else 10.0 * float(np.log10(255.0**2 / mse))
