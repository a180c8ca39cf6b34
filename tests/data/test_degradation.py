"""LR made on the fly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdsr_arch.data.augment import Crop
from kdsr_arch.data.pairs import DegradedSource
from kdsr_arch.data.sources import FolderSource, MemorySource
from tests.helpers.messages import refuses

KINDS = [("BI", "symmetric"), ("BI", "replicate"), ("BD", "symmetric")]


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize(("kind", "border"), KINDS)
def test_the_lr_of_a_crop_is_the_crop_of_the_lr(frames, scale, kind, border):
    source = DegradedSource(MemorySource({"a": frames[0][:141, :175]}), scale, kind, border)
    height, width = source.size("a")
    assert (height, width) == (141 // scale, 175 // scale)
    whole = source.get("a")
    rng = np.random.default_rng(scale)
    corners = [(0, 0, 8, 8), (height - 9, width - 7, 9, 7), (0, width - 8, height, 8), (0, 0, height, width)]
    inner = [(rng.integers(height - 12), rng.integers(width - 12), 12, 12) for _ in range(12)]
    for crop in [Crop(*(int(v) for v in w)) for w in corners + inner]:
        lq, gt = source.get_pair("a", crop)
        np.testing.assert_array_equal(lq, crop.of(whole), err_msg=str(crop))
        np.testing.assert_array_equal(gt, crop.scaled(scale).of(frames[0]))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bi_equals_matlabs_own_files(shared_data: Path, scale):
    root = shared_data / "sisr_test" / "Set5"
    made = DegradedSource(FolderSource(root / "HR"), scale)
    stored = FolderSource(root / "LR_bicubic" / f"X{scale}")
    compared = 0
    for key in made:
        name = next(k for k in stored if k.startswith(key))
        np.testing.assert_array_equal(made.get(key), stored.get(name), err_msg=f"{key} x{scale}")
        compared += 1
    assert compared == 5


def test_unknown_kinds_are_refused(frames):
    with refuses("degradation 'BX'", "'BI'", "'BD'", "'none'"):
        DegradedSource(MemorySource({}), 4, "BX")
