"""tOF and the warping error against laws: equality, known shifts, blur, flicker."""

from functools import partial

import cv2
import numpy as np
import pytest

from kdsr_arch.metrics.measure import measure, split_metrics
from kdsr_arch.metrics.temporal_metric import calculate_tof, calculate_warping_error
from tests.helpers.messages import refuses
from tests.helpers.options import metric_options


@pytest.fixture(scope="module")
def texture():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (160, 200, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)


def moving(texture, dx, frames=4):
    return np.stack([texture[20:116, 20 + dx * t : 148 + dx * t] for t in range(frames)])


@pytest.mark.parametrize("flow", ["dis", "farneback"])
def test_tof_of_equal_clips_is_zero(texture, flow):
    clip = moving(texture, 2)
    assert calculate_tof(clip, clip, flow=flow) == 0.0


@pytest.mark.parametrize("flow,tolerance", [("dis", 0.15), ("farneback", 0.25)])
def test_tof_measures_the_difference_of_motion(texture, flow, tolerance):
    """Two pixels a frame against none: |2| in x and 0 in y, so 1 on average over the components."""
    value = calculate_tof(moving(texture, 2), moving(texture, 0), crop_border=0, flow=flow)
    assert value == pytest.approx(1.0, abs=tolerance)


def test_warping_error_follows_the_motion(texture):
    clip = moving(texture, 3)
    assert calculate_warping_error(clip, clip) < 0.2
    frozen = moving(texture, 0)
    assert calculate_warping_error(frozen, clip) > 20 * calculate_warping_error(clip, clip)


def test_warping_error_of_flicker_by_hand(texture):
    """Brightness alternating by d in a still scene: the error is exactly (d/255)^2, in units of 1e-3."""
    clip = moving(texture, 0) // 2
    flicker = clip.copy()
    flicker[1::2] += 20
    assert calculate_warping_error(flicker, clip) == pytest.approx(1e3 * (20 / 255) ** 2, rel=1e-3)


def test_one_channel_clips(texture):
    clip = moving(texture, 2)[..., :1]
    assert calculate_tof(clip, clip) == 0.0
    assert calculate_warping_error(clip, clip) < 0.3


def test_crop(texture):
    clip, other = moving(texture, 2), moving(texture, 2).copy()
    other[:, :4] = other[:, -4:] = 0
    other[:, :, :4] = other[:, :, -4:] = 0
    assert calculate_tof(other, clip, crop_border=4) == 0.0 < calculate_tof(other, clip)


def test_named_in_options(texture):
    tof = {"type": "calculate_tof", "better": "lower"}
    metrics = {"psnr": {"type": "calculate_psnr", "crop_border": 0}, "tof": tof}
    images, clips = split_metrics({name: metric_options(**metric) for name, metric in metrics.items()})
    assert list(images) == ["psnr"] and list(clips) == ["tof"]
    clip = moving(texture, 1)
    assert measure(clip, clip, clips["tof"]) == 0.0


def test_refusals(texture):
    clip = moving(texture, 1)
    with refuses("two frames"):
        calculate_tof(clip[:1], clip[:1])
    with refuses("(2, 96, 128, 3)", "(3, 96, 128, 3)"):
        calculate_tof(clip[:2], clip[:3])
    with refuses("'spynet'", "dis", "farneback"):
        calculate_tof(clip, clip, flow="spynet")
    with refuses("16x16", "(96, 128)"):
        calculate_warping_error(clip, clip, crop_border=45)


def test_exact_flow_by_hand(texture):
    """Frames of a camera that moves 3 pixels to the right: the picture goes 3 to the left, its left edge is lost."""
    clip = moving(texture, 3)
    vectors = np.zeros((3, 2, *clip.shape[1:3]), np.float32)
    vectors[:, 0] = -3
    visible = np.ones((3, 1, *clip.shape[1:3]), np.float32)
    visible[..., :3] = 0
    exact = partial(calculate_warping_error, flow="exact", motion=(vectors, visible))
    assert exact(clip, clip) == 0.0
    flicker = clip // 2
    flicker[1::2] += 20
    assert exact(flicker, clip) == pytest.approx(1e3 * (20 / 255) ** 2, rel=1e-6) == exact(flicker, clip, crop_border=4)
    other = clip.copy()
    other[:, :, :3] = 0  # of what is not visible nothing counts
    assert exact(other, clip) > 0  # the next frame is sampled there
    other = clip.copy()
    other[0, :, :3] = 0
    assert exact(other, clip) == 0.0
    option = metric_options(type="calculate_warping_error", flow="exact")
    assert measure(clip, clip, option, (vectors, visible)) == 0.0
    with refuses("flow", "exact", "StillClipDataset"):
        measure(clip, clip, option)
