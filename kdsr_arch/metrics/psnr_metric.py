"""PSNR and SSIM of 8-bit images: the values of ``basicsr.metrics`` (to 1e-6), computed faster; and EDSR's PSNR.

Images are uint8 arrays (H, W, C) in BGR order, as BasicSR's metrics take them; one channel means luma.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from kdsr_arch.errors import UserError
from kdsr_arch.registry import METRIC_REGISTRY

# ITU-R BT.601 studio range, in BGR order, the constants of MATLAB's rgb2ycbcr; what each 8-bit value contributes.
_LUMA_BGR = np.array([24.966, 128.553, 65.481])
_UNIT = (np.arange(256, dtype=np.float32) / np.float32(255)).astype(np.float64)
_LUMA_TABLE = np.ascontiguousarray((_UNIT[:, None] * _LUMA_BGR)[None])
_GAUSSIAN = cv2.getGaussianKernel(11, 1.5)
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def luma(image: NDArray) -> NDArray[np.float32]:
    """Return Y of YCbCr (BT.601, [16, 235], not rounded) of a uint8 image, (H, W, 1) float32; of one channel: itself.

    The float32 steps are those of BasicSR, so that the values agree to the last bit.
    """
    if image.shape[2] == 3:
        summed = cv2.transform(cv2.LUT(image, _LUMA_TABLE), np.array([[1.0, 1.0, 1.0, 16.0]]))
        scaled = (summed / 255.0).astype(np.float32)[..., None]
    else:
        scaled = image.astype(np.float32) / np.float32(255.0)
    return scaled * np.float32(255.0)


def prepare(img: NDArray, img2: NDArray, crop_border: int, test_y_channel: bool) -> tuple[NDArray, NDArray]:
    """Return both images as (H, W, C), cropped, and reduced to luma where asked."""
    if img.shape != img2.shape:
        raise UserError(f"a metric needs two images of one shape, got {img.shape} and {img2.shape}")
    img, img2 = (x[..., None] if x.ndim == 2 else x for x in (img, img2))
    if crop_border < 0:
        raise UserError(f"crop_border {crop_border}: must be 0 or more")
    if min(img.shape[:2]) <= 2 * crop_border:
        raise UserError(f"crop_border {crop_border} leaves nothing of an image of {img.shape[0]}x{img.shape[1]}")
    if crop_border:
        inner = slice(crop_border, -crop_border)
        img, img2 = img[inner, inner], img2[inner, inner]
    return (luma(img), luma(img2)) if test_y_channel else (img, img2)


def psnr(img: NDArray, img2: NDArray, crop_border: int = 0, test_y_channel: bool = False) -> float:
    """Compute the peak signal-to-noise ratio in dB (peak 255); ``inf`` for equal images.

    Args:
        img: (H, W, C) uint8, BGR or one channel.
        img2: the reference, same shape.
        crop_border: pixels left out at each edge.
        test_y_channel: compare the luma instead of all channels (one mean over all of them).
    """
    first, second = prepare(img, img2, crop_border, test_y_channel)
    return _decibels(cv2.norm(np.ascontiguousarray(first), np.ascontiguousarray(second), cv2.NORM_L2SQR) / first.size)


def _decibels(mse: float) -> float:
    return float("inf") if mse == 0 else 10.0 * float(np.log10(255.0**2 / mse))


def _blur_valid(x: NDArray) -> NDArray:
    return cv2.sepFilter2D(x, -1, _GAUSSIAN, _GAUSSIAN)[5:-5, 5:-5]


def ssim(img: NDArray, img2: NDArray, crop_border: int = 0, test_y_channel: bool = False) -> float:
    """Compute SSIM (Wang et al. 2004: Gaussian 11x11, sigma 1.5, valid region), the mean over the channels.

    Arguments as in :func:`psnr`.
    """
    first, second = prepare(img, img2, crop_border, test_y_channel)
    if min(first.shape[:2]) < 11:
        raise UserError(f"SSIM needs at least 11x11 pixels after cropping, got {first.shape[0]}x{first.shape[1]}")
    means = []
    for c in range(first.shape[2]):
        x, y = (np.ascontiguousarray(image[..., c], dtype=np.float64) for image in (first, second))
        mu_x, mu_y = _blur_valid(x), _blur_valid(y)
        mu_xy, mu_squares = mu_x * mu_y, mu_x * mu_x + mu_y * mu_y
        covariance = _blur_valid(x * y) - mu_xy
        variances = _blur_valid(x * x + y * y) - mu_squares  # only the sum of both variances enters the formula
        numerator = (2 * mu_xy + _C1) * (2 * covariance + _C2)
        means.append((numerator / ((mu_squares + _C1) * (variances + _C2))).mean())
    return float(np.mean(means))


_WEIGHTS_BGR = np.array([25.064, 129.057, 65.738]) / 256.0


@METRIC_REGISTRY.register()
def calculate_psnr_edsr(img: NDArray, img2: NDArray, crop_border: int = 0, test_y_channel: bool = False) -> float:
    """Compute EDSR's PSNR in dB of (H, W, C) uint8 BGR; on Y it weighs the *difference* (65.738, 129.057, 25.064)/256.

    Source: ``utility.calc_psnr`` of EDSR's, FAKD's and PISR's public code. On Y it lies within some 0.001 dB of
    MATLAB's luma; without Y their code leaves out scale + 6 pixels at each edge.
    """
    first, second = prepare(img, img2, crop_border, False)
    difference = np.subtract(first, second, dtype=np.float64)
    if test_y_channel and difference.shape[2] == 3:
        difference = difference @ _WEIGHTS_BGR
    return _decibels(float(np.mean(difference**2)))
