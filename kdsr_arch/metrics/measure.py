"""One door to every registered metric, by the ``{type: ..., **keywords}`` entries of ``val.metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basicsr.metrics import calculate_metric
from numpy.typing import NDArray

from kdsr_arch.errors import UserError
from kdsr_arch.metrics import psnr_metric, temporal_metric
from kdsr_arch.registry import lookup

# Same numbers as BasicSR's, faster; taken only for the keywords they know.
_FAST = {"calculate_psnr": psnr_metric.psnr, "calculate_ssim": psnr_metric.ssim}
_FAST_KEYWORDS = {"type", "crop_border", "test_y_channel", "better"}


def check_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse unknown metric types before anything is computed."""
    for name, option in metrics.items():
        try:
            lookup("metric", option.get("type"))
        except UserError as error:
            raise UserError(f"val.metrics.{name}.type: {error}") from None


def split_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, dict], dict[str, dict]]:
    """The metrics of single images and the metrics of whole clips."""
    check_metrics(metrics)
    clips = {name: dict(option) for name, option in metrics.items() if temporal_metric.takes_clip(option["type"])}
    return {name: dict(option) for name, option in metrics.items() if name not in clips}, clips


def measure(result: NDArray, truth: NDArray, option: Mapping[str, Any]) -> float:
    """The value of one metric.

    Args:
        result: uint8 BGR (H, W, C), or (T, H, W, C) for a metric of clips.
        truth: the ground truth, same shape.
        option: ``{type: registered name, **keywords}``; ``better`` (higher | lower) is BasicSR's, and is no keyword.
    """
    fast = _FAST.get(option["type"])
    if fast is not None and set(option) <= _FAST_KEYWORDS:
        return fast(result, truth, option.get("crop_border", 0), option.get("test_y_channel", False))
    keywords = {key: value for key, value in option.items() if key != "better"}
    return float(calculate_metric({"img": result, "img2": truth}, keywords))
