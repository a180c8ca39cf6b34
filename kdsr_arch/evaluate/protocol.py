"""What a number was measured on and how: the frames that count, and the sentence printed beside every result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdsr_arch.errors import UserError
from kdsr_arch.options.components import registered
from kdsr_arch.options.schema import MetricOptions, ValOptions
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.registry import is_basicsr, is_ours


@dataclass(frozen=True)
class FrameRule:
    """Which frames of a clip are restored and scored.

    Attributes:
        skip_first: frames left out at the start (some papers drop the ends of Vid4's clips).
        skip_last: frames left out at the end.
        center_frame_only: only frame T // 2 (Vimeo-90K-T).
    """

    skip_first: int = 0
    skip_last: int = 0
    center_frame_only: bool = False

    def select(self, total: int, name: str, truths: Sequence[int] = ()) -> list[int]:
        """Choose frames of a clip of ``total``; where only some frames have a ground truth, those of them."""
        if self.center_frame_only:
            return [total // 2]
        chosen = list(range(self.skip_first, total - self.skip_last))
        if truths:
            chosen = [i for i in chosen if i in set(truths)]
        if not chosen:
            raise UserError(
                f"val.skip_first {self.skip_first} and val.skip_last {self.skip_last} leave no frame of "
                f"'{name}', which has {total}"
            )
        return chosen

    def describe(self) -> str:
        """Put the rule in words, for tables: ``all frames``, ``center frame``, ..."""
        if self.center_frame_only:
            return "center frame"
        if not self.skip_first and not self.skip_last:
            return "all frames"
        return f"without the first {self.skip_first} and the last {self.skip_last} frames"


def rule_from(dataset: DatasetOptions, val: ValOptions) -> FrameRule:
    """Return the rule of one data set: its own keys first, then those of ``val``."""
    first = val.skip_first if dataset.skip_first is None else dataset.skip_first
    last = val.skip_last if dataset.skip_last is None else dataset.skip_last
    center = val.center_frame_only if dataset.center_frame_only is None else dataset.center_frame_only
    return FrameRule(first or 0, last or 0, bool(center))


def describe_degradation(dataset: DatasetOptions, scale: int) -> str:
    """Describe the input: 'BI x4', 'BD x4', or 'stored LR x4' where the LR frames are given."""
    if dataset.dataroot_lq or dataset.degradation == "none":
        return f"stored LR x{scale}"
    maker = registered("data set", dataset.type)
    if maker is not None and not (dataset.degradation or is_ours(maker) or is_basicsr(maker)):
        return f"LR of {dataset.type} x{scale}"
    return f"{dataset.degradation or 'BI'} x{scale}"  # BI is the data sets' own default


def _metric_texts(metrics: Mapping[str, MetricOptions], channels: int) -> dict[str, list[str]]:
    """Color and crop -> the metrics measured so. A metric without a choice of color joins those of its crop."""

    def has_color(metric: MetricOptions) -> bool:
        return metric.type.startswith(("calculate_psnr", "calculate_ssim"))

    texts: dict[str, list[str]] = {}
    for name, metric in sorted(metrics.items(), key=lambda entry: not has_color(entry[1])):
        keywords = metric.keywords()
        border = keywords.get("crop_border", 0)
        crop = f"crop {border}" if border else "no crop"
        if has_color(metric):
            text = f"{'Y channel' if keywords.get('test_y_channel') or channels == 1 else 'RGB'}, {crop}"
        else:
            text = next((known for known in texts if known.endswith(crop)), crop)
        texts.setdefault(text, []).append(name)
    return texts


def describe_protocol(
    metrics: Mapping[str, MetricOptions], rule: FrameRule, degradation: str, clips: bool, channels: int = 3
) -> str:
    """Say in one sentence how values were measured, such as ``Y channel, no crop, all frames, BI x4``.

    Args:
        metrics: ``val.metrics``; where they disagree about color or crop, each is named.
        rule: the frames that count; said of clips only.
        degradation: see :func:`describe_degradation`.
        clips: whether the data are clips.
        channels: of the ground truth; 1 means luma.
    """
    by_text = _metric_texts(metrics, channels)
    if len(by_text) == 1:
        parts = list(by_text)
    else:
        parts = [f"{' and '.join(names)}: {text}" for text, names in by_text.items()]
    if clips:
        parts.append(rule.describe())
    return ("; " if len(by_text) > 1 else ", ").join([*parts, degradation])
