"""Crop sheets: the box, the pixels shown, the refusals."""

import cv2
import numpy as np
import pytest

from kdsr_arch.data.augment import Crop
from kdsr_arch.report.crops import crop_sheet, find_box
from tests.helpers.messages import refuses


def frame(seed=0, shape=(90, 120, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_the_box_is_where_the_baseline_fails():
    truth = frame()
    baseline = truth.copy()
    baseline[40:60, 70:100] = 255 - baseline[40:60, 70:100]
    assert find_box(truth, baseline, 30, 20) == Crop(40, 70, 20, 30)


def test_a_box_larger_than_the_frame_is_the_frame():
    assert find_box(frame(), frame(1), 500, 500) == Crop(0, 0, 90, 120)


def test_crops_are_shown_pixel_for_pixel(tmp_path):
    truth, other = frame(), frame(1)
    box, zoom = Crop(21, 33, 12, 16), 3
    columns = [("other", other, "12.34 dB"), ("ground truth", truth, "")]
    path = crop_sheet(truth, columns, box, tmp_path / "s.png", zoom=zoom)
    sheet = cv2.imread(str(path))
    for image in (other, truth):
        crop = cv2.resize(box.of(image), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
        score = cv2.matchTemplate(sheet, crop, cv2.TM_SQDIFF)
        row, column = np.unravel_index(score.argmin(), score.shape)
        assert np.array_equal(sheet[row : row + crop.shape[0], column : column + crop.shape[1]], crop)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 6])
def test_any_number_of_columns(tmp_path, count):
    columns = [(f"a network with a long name {i}", frame(i), "30.00 dB") for i in range(count)]
    assert cv2.imread(str(crop_sheet(frame(), columns, Crop(0, 0, 18, 24), tmp_path / "s.png"))) is not None


def test_refusals(tmp_path):
    with refuses("crop sheet"):
        crop_sheet(frame(), [], Crop(0, 0, 8, 8), tmp_path / "s.png")
    with refuses("'small'", "(10, 10, 3)", "(90, 120, 3)"):
        crop_sheet(frame(), [("small", frame(shape=(10, 10, 3)), "")], Crop(0, 0, 8, 8), tmp_path / "s.png")
    assert not list(tmp_path.iterdir())
