"""The sentence beside every number."""

import pytest

from kdsr_arch.evaluate.protocol import FrameRule, describe_degradation, describe_protocol, rule_from
from kdsr_arch.options.schema import ValOptions
from tests.helpers.options import dataset_options, metric_options

Y = {"crop_border": 0, "test_y_channel": True}


@pytest.mark.parametrize(
    "metrics,clips,channels,expected",
    [
        ({"psnr": {"type": "calculate_psnr", **Y}}, True, 3, "Y channel, no crop, all frames, BI x4"),
        ({"psnr": {"type": "calculate_psnr", "crop_border": 4}}, False, 3, "RGB, crop 4, BI x4"),
        ({"psnr": {"type": "calculate_psnr", "crop_border": 4}}, False, 1, "Y channel, crop 4, BI x4"),
        (
            {"tof": {"type": "calculate_tof"}, "psnr": {"type": "calculate_psnr", **Y}},
            True,
            3,
            "Y channel, no crop, all frames, BI x4",
        ),
        (
            {"tof": {"type": "calculate_tof", "crop_border": 8}, "psnr": {"type": "calculate_psnr", **Y}},
            True,
            3,
            "psnr: Y channel, no crop; tof: crop 8; all frames; BI x4",
        ),
        ({}, True, 3, "all frames, BI x4"),
    ],
)
def test_sentences(metrics, clips, channels, expected):
    metrics = {name: metric_options(**metric) for name, metric in metrics.items()}
    assert describe_protocol(metrics, FrameRule(), "BI x4", clips, channels) == expected


@pytest.mark.parametrize(
    "dataset,expected",
    [
        ({"degradation": "BD"}, "BD x4"),
        ({"degradation": "BI", "dataroot_lq": "lr"}, "stored LR x4"),
        ({}, "BI x4"),
    ],
)
def test_degradations(dataset, expected):
    assert describe_degradation(dataset_options(**dataset), 4) == expected


def test_rules_of_the_data_set_come_first():
    rule = rule_from(dataset_options(skip_first=2), ValOptions(skip_first=1, skip_last=1))
    assert rule == FrameRule(2, 1, False)
    assert rule_from(dataset_options(center_frame_only=True), ValOptions()) == FrameRule(0, 0, True)
    assert rule_from(dataset_options(skip_first=None), ValOptions()).select(3, "a") == [0, 1, 2]
    assert FrameRule(1, 1).select(6, "a", [0, 2, 5]) == [2]
