"""One door to every registered metric, by the ``{type: ..., **keywords}`` entries of ``val.metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from basicsr.metrics import calculate_metric
from numpy.typing import NDArray

from kdsr_arch.errors import ProgramFault, UserError
from kdsr_arch.metrics import perceptual_metric, psnr_metric, temporal_metric
from kdsr_arch.options.schema import MetricOptions
from kdsr_arch.registry import lookup

# Same numbers as BasicSR's, faster; taken only for the keywords they know.
_FAST = {"calculate_psnr": psnr_metric.psnr, "calculate_ssim": psnr_metric.ssim}
_FAST_KEYWORDS = {"crop_border", "test_y_channel"}


def split_metrics(metrics: Mapping[str, MetricOptions]) -> tuple[dict[str, MetricOptions], dict[str, MetricOptions]]:
    """Return the metrics of single images and the metrics of whole clips.

    Raises:
        UserError: an unknown type.
    """
    for name, metric in metrics.items():
        try:
            lookup("metric", metric.type)
        except UserError as error:
            raise UserError(f"val.metrics.{name}.type: {error}") from None
    clips = {name: metric for name, metric in metrics.items() if temporal_metric.takes_clip(metric.type)}
    return {name: metric for name, metric in metrics.items() if name not in clips}, clips


def check_size(height: int, width: int, metric: MetricOptions) -> None:
    """Raise UserError where an image of this size is too small for PSNR or SSIM; other metrics are not tried."""
    if metric.type in _FAST:
        blank = np.zeros((height, width, 1), np.uint8)
        _FAST[metric.type](blank, blank, metric.keywords().get("crop_border", 0), False)


def lower_is_better(metric: MetricOptions) -> bool:
    """Tell which way a metric goes: as ``better`` says, or else as the metric itself does.

    One of pyiqa's says it; a function of the registry by its attribute ``lower_is_better``.
    """
    if metric.better is not None:
        return metric.better == "lower"
    if metric.type == "calculate_pyiqa":
        return perceptual_metric.lower_is_better(**metric.keywords())
    return metric.type == "calculate_niqe" or bool(getattr(lookup("metric", metric.type), "lower_is_better", False))


def needs_motion(metric: MetricOptions) -> bool:
    """Tell whether a metric asks for the exact flow of the ground truth."""
    return metric.keywords().get("flow") == "exact"


def measure(
    result: NDArray, truth: NDArray, metric: MetricOptions, motion: tuple[NDArray, NDArray] | None = None
) -> float:
    """Compute the value of one metric.

    Args:
        result: uint8 BGR (H, W, C), or (T, H, W, C) for a metric of clips.
        truth: the ground truth, same shape.
        metric: its registered name and keywords.
        motion: the exact flow of the ground truth and where it is visible, for one that :func:`needs_motion`.

    Raises:
        UserError: images that it cannot compare.
        ProgramFault: a metric that raises something else, or returns no number.
    """
    fast, keywords = _FAST.get(metric.type), metric.keywords()
    if fast is not None and set(keywords) <= _FAST_KEYWORDS:
        return fast(result, truth, keywords.get("crop_border", 0), keywords.get("test_y_channel", False))
    data: dict[str, Any] = {"img": result, "img2": truth}
    if needs_motion(metric):
        data["motion"] = motion
    try:
        return float(calculate_metric(data, {"type": metric.type, **keywords}))
    except Exception as error:
        raise error if isinstance(error, UserError) else ProgramFault.of(error, f"metric {metric.type}: ") from error
