"""PSNR and SSIM against golden numbers and against basicsr.metrics."""

import re

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_psnr, calculate_ssim

from kdsr_arch.errors import ProgramFault
from kdsr_arch.metrics.measure import measure, split_metrics
from kdsr_arch.metrics.psnr_metric import psnr, ssim
from kdsr_arch.registry import METRIC_REGISTRY
from tests.helpers.messages import refuses
from tests.helpers.options import metric_options


def noisy_pair(shape, seed, noise=20):
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), shape[1::-1], interpolation=cv2.INTER_CUBIC)
    other = np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)
    return image[..., : shape[2]], other[..., : shape[2]]


def test_golden(vectors):
    z = vectors("metrics")
    order = str(z["hp/channel_order"])
    checked = 0
    for key in z.files:
        match = re.fullmatch(r"out64/(psnr|ssim|edsr_psnr)_(rgb|y)_(?:crop|shave)(\d+)_(\d+)", key)
        if not match:
            continue
        kind, color, crop, index = match.groups()
        pair = [z[f"in/img_{side}{index}"] for side in "ab"]
        pair = [x[..., ::-1] if order.startswith("RGB") else x for x in pair]
        metric = {"psnr": "calculate_psnr", "ssim": "calculate_ssim", "edsr_psnr": "calculate_psnr_edsr"}[kind]
        value = measure(*pair, metric_options(type=metric, crop_border=int(crop), test_y_channel=color == "y"))
        tolerance = {"psnr": 1e-4, "ssim": 1e-6, "edsr_psnr": 2e-4}[kind]
        assert value == pytest.approx(float(z[key]), abs=tolerance), key
        checked += 1
    assert checked >= 20


@pytest.mark.parametrize("crop", [0, 3])
@pytest.mark.parametrize("y", [False, True])
@pytest.mark.parametrize("noise", [0.7, 25])
@pytest.mark.parametrize("shape", [(37, 52, 3), (64, 41, 1)])
def test_equals_basicsr(crop, y, noise, shape):
    image, other = noisy_pair(shape, 3, noise)
    assert psnr(image, other, crop, y) == pytest.approx(calculate_psnr(image, other, crop, test_y_channel=y), abs=1e-6)
    assert ssim(image, other, crop, y) == pytest.approx(calculate_ssim(image, other, crop, test_y_channel=y), abs=1e-6)


def test_equal_images():
    image, _ = noisy_pair((20, 20, 3), 0)
    assert psnr(image, image) == float("inf")
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-12)


def test_psnr_by_hand():
    black = np.zeros((16, 16, 3), np.uint8)
    assert psnr(black, black + 5) == pytest.approx(20 * np.log10(255 / 5), abs=1e-12)


def test_other_keywords_go_to_basicsr():
    image, other = noisy_pair((24, 24, 3), 1)
    option = metric_options(type="calculate_psnr", crop_border=2, input_order="HWC", better="higher")
    assert measure(image, other, option) == pytest.approx(psnr(image, other, 2), abs=1e-9)


@pytest.mark.parametrize("value", [None, "good", np.ones(3), {"a": 1.0}, ZeroDivisionError("by zero")])
def test_a_metric_that_gives_no_number_is_named(value, monkeypatch):
    def own(img, img2):
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setitem(METRIC_REGISTRY._obj_map, "own", own)
    with refuses("metric own", kind=ProgramFault):
        measure(*noisy_pair((20, 20, 3), 1), metric_options(type="own"))


def test_refusals():
    image, other = noisy_pair((20, 20, 3), 1)
    with refuses("(20, 20, 3)", "(19, 20, 3)"):
        psnr(image, other[:-1])
    with refuses("crop_border 10", "20x20"):
        psnr(image, other, 10)
    with refuses("crop_border -3", "0 or more"):
        psnr(image, other, -3)
    with refuses("SSIM", "11x11", "10x10"):
        ssim(image, other, 5)
    with refuses("val.metrics.psnr.type", "'calculate_pnsr'", near="calculate_psnr"):
        split_metrics({"psnr": metric_options(type="calculate_pnsr")})


def test_rcan_released_outputs(shared_data):
    """RCAN's published figures on Set5, Y, crop = scale."""
    folder = shared_data / "golden_outputs" / "RCAN"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    for scale, published in ((2, 38.27), (3, 34.74), (4, 32.63)):
        values = []
        for path in sorted((folder / "SR" / "Set5" / f"x{scale}").glob("*.png")):
            truth = folder / "HR" / "Set5" / f"x{scale}" / path.name.replace("_RCAN_", "_HR_")
            option = metric_options(type="calculate_psnr", crop_border=scale, test_y_channel=True)
            values.append(measure(cv2.imread(str(path)), cv2.imread(str(truth)), option))
        assert len(values) == 5
        assert np.mean(values) == pytest.approx(published, abs=0.0051)
