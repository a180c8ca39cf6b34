"""Metrics of a clip's motion: tOF and the warping error. Both take whole clips, (T, H, W, C) uint8 in BGR order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.registry import METRIC_REGISTRY

F = TypeVar("F", bound=Callable[..., float])


def clip_metric(function: F) -> F:
    """Register a metric of whole clips of which less is better; the evaluator reads this from its attributes."""
    function.takes_clip = function.lower_is_better = True  # type: ignore[attr-defined]
    return METRIC_REGISTRY.register()(function)


def takes_clip(metric_type: str) -> bool:
    """Tell whether the registered metric of this name wants whole clips."""
    return bool(getattr(METRIC_REGISTRY.get(metric_type), "takes_clip", False))


def _flow_estimator(method: str) -> Callable[[NDArray, NDArray], NDArray]:
    one_of("temporal metric", "flow", method, ("dis", "farneback"))
    unset: Any = None  # OpenCV allocates the result
    if method == "dis":
        estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return lambda first, second: estimator.calc(first, second, unset)
    return lambda first, second: cv2.calcOpticalFlowFarneback(first, second, unset, 0.5, 3, 15, 3, 5, 1.2, 0)


def _gray(frame: NDArray) -> NDArray:
    frame = np.ascontiguousarray(frame)
    return frame[..., 0] if frame.shape[2] == 1 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)


def _check_clips(img: NDArray, img2: NDArray, crop_border: int) -> tuple[NDArray, NDArray]:
    if img.shape != img2.shape or img.ndim != 4:
        raise UserError(f"a clip metric needs two clips (T, H, W, C) of one shape, got {img.shape} and {img2.shape}")
    if img.shape[0] < 2:
        raise UserError("a clip metric needs at least two frames")
    inner = slice(crop_border, -crop_border if crop_border else None)
    cropped = img[:, inner, inner], img2[:, inner, inner]
    if min(cropped[0].shape[1:3]) < 16:
        raise UserError(f"optical flow needs at least 16x16 pixels after cropping, got clips of {img.shape[1:3]}")
    return cropped


def _flows(frames: NDArray, method: str) -> Iterator[NDArray[np.float32]]:
    """Yield the flow from each frame to the next, (H, W, 2) in pixels (dx, dy)."""
    estimate = _flow_estimator(method)
    previous = _gray(frames[0])
    for frame in frames[1:]:
        current = _gray(frame)
        yield estimate(previous, current)
        previous = current


@clip_metric
def calculate_tof(img: NDArray, img2: NDArray, crop_border: int = 0, flow: str = "dis") -> float:
    """Measure tOF: how far the motion in the result lies from that in the ground truth; lower is better.

    Mean over frame pairs, pixels and the two components of ``|flow(b_t, b_t+1) - flow(g_t, g_t+1)|``, in pixels.
    Source: Chu et al., "Learning Temporal Coherence via Self-Supervision for GAN-based Video Generation"
    (TecoGAN, 2020), section on metrics; there with Farneback's flow.

    Args:
        img: the result, (T, H, W, C) uint8 BGR (or one channel).
        img2: the ground truth, same shape.
        crop_border: pixels left out at each edge, before the flow is estimated.
        flow: ``dis`` (OpenCV's dense inverse search, medium preset) or ``farneback`` (eight times slower).
    """
    result, truth = _check_clips(img, img2, crop_border)
    pairs = zip(_flows(result, flow), _flows(truth, flow), strict=True)
    return float(np.mean([np.abs(a - b).mean(dtype=np.float64) for a, b in pairs]))


def _warp(frame: NDArray, flow: NDArray) -> NDArray:
    """Sample ``frame`` at each pixel plus its flow, bilinearly; outside the frame: NaN."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    outside: Any = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": (np.nan,) * 4}
    return cv2.remap(frame.astype(np.float32), x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, **outside)


@clip_metric
def calculate_warping_error(
    img: NDArray,
    img2: NDArray,
    crop_border: int = 0,
    flow: str = "dis",
    motion: tuple[NDArray, NDArray] | None = None,
) -> float:
    """Measure the warping error: how much the result changes along the ground truth's motion; lower is steadier.

    Mean over frame pairs of the mean squared difference between frame t and frame t+1 brought back along the flow
    that the *ground truth* shows, over the pixels visible in both, whose forward flow the backward
    flow at its end undoes (Sundaram et al. 2010; Ruder et al. 2016); in units of 1e-3 for intensities in [0, 1].
    Source: Lai et al., "Learning Blind Video Temporal Consistency" (ECCV 2018), E_warp. The ground truth itself has
    a warping error above zero, and a still blur has a small one: read it beside PSNR.

    Arguments as in :func:`calculate_tof`, and:

    Args:
        flow: or ``exact``, for clips whose motion is known, such as those rendered from photographs.
        motion: of those, the flow (T - 1, 2, H, W) and where it is visible (T - 1, 1, H, W).
    """
    result, truth = _check_clips(img, img2, crop_border)
    if flow != "exact":
        motions = _estimated_motions(truth, flow)
    elif motion is None:
        raise UserError(
            "warping error with `flow: exact` needs clips whose motion is known: a StillClipDataset, or a store made "
            "by `kdsr lmdb create --kind stills`"
        )
    else:
        motions = _exact_motions(*motion, crop_border)
    errors = []
    for t, (forward, visible) in enumerate(motions):
        if visible.any():
            warped = _warp(np.ascontiguousarray(result[t + 1]), forward).reshape(result[t].shape)
            difference = (warped - result[t])[visible] / 255.0
            errors.append(float(np.nanmean(difference.astype(np.float64) ** 2)))
    return 1e3 * float(np.mean(errors)) if errors else float("nan")


def _estimated_motions(truth: NDArray, flow: str) -> Iterator[tuple[NDArray, NDArray]]:
    """Yield the flow from each frame to the next, and the pixels visible in both."""
    estimate = _flow_estimator(flow)
    for t in range(len(truth) - 1):
        first, second = _gray(truth[t]), _gray(truth[t + 1])
        forward = estimate(first, second)
        returned = _warp(estimate(second, first), forward)
        squares = (forward**2).sum(-1) + (returned**2).sum(-1)
        with np.errstate(invalid="ignore"):  # NaN, from outside the frame, compares as not visible
            yield forward, ((forward + returned) ** 2).sum(-1) < 0.01 * squares + 0.5


def _exact_motions(vectors: NDArray, visible: NDArray, crop_border: int) -> Iterator[tuple[NDArray, NDArray]]:
    """Yield the flow that is known, and the pixels visible in both; what leaves the crop becomes NaN when warped."""
    inner = slice(crop_border, -crop_border if crop_border else None)
    for arrows, seen in zip(vectors[..., inner, inner], visible[:, 0, inner, inner], strict=True):
        yield np.ascontiguousarray(arrows.transpose(1, 2, 0)), seen > 0
