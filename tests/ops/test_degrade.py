"""The blur degradation against SciPy, against basicsr's, and against its own laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from kdsr_arch.ops.degrade import bd_downsample
from tests.helpers.messages import refuses


@pytest.mark.parametrize("sigma", [0.8, 1.6, 2.4])
@pytest.mark.parametrize("size", [(40, 61), (5, 7), (1, 9)])
def test_blur_equals_scipy(sigma, size):
    frame = np.random.default_rng(0).integers(0, 1 << 16, (*size, 3), dtype=np.uint16)
    blurred = gaussian_filter(frame.astype(np.float64), (sigma, sigma, 0), mode="mirror")
    assert np.array_equal(bd_downsample(frame, 1, sigma), np.floor(blurred + 0.5).astype(np.uint16))


@pytest.mark.filterwarnings("ignore")  # basicsr's own
def test_downsample_equals_basicsr_duf():
    from basicsr.data.data_util import duf_downsample

    frames = np.random.default_rng(0).integers(0, 1 << 16, (2, 48, 64, 3), dtype=np.uint16)
    x = torch.from_numpy(frames / 65535).float().permute(0, 3, 1, 2)[None].contiguous()
    ours = torch.from_numpy(bd_downsample(frames, 4) / 65535).float().permute(0, 3, 1, 2)[None]
    torch.testing.assert_close(ours, duf_downsample(x, 13, 4), atol=0.6 / 65535, rtol=0)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_uint8_is_the_blur_of_every_scale_th_pixel_rounded(scale):
    frame = np.random.default_rng(scale).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    blurred = gaussian_filter(frame.astype(np.float64), (1.6, 1.6, 0), mode="mirror")
    assert np.array_equal(bd_downsample(frame, scale), np.floor(blurred[::scale, ::scale] + 0.5).astype(np.uint8))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_part_of_a_frame_equals_part_of_the_result(scale):
    frames = np.random.default_rng(0).integers(0, 256, (2, 240, 276, 3), dtype=np.uint8)
    frames.flags.writeable = False
    whole = bd_downsample(frames, scale)
    part = bd_downsample(frames[1, 4 * scale : 24 * scale, 8 * scale :], scale)
    assert np.array_equal(part[4:-4, 4:], whole[1, 8:20, 12:])


def test_constant_stays():
    assert (bd_downsample(np.full((24, 24, 3), 255, np.uint8), 4) == 255).all()


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: bd_downsample(np.zeros((10, 12, 3), np.uint8), 4), ["bd_downsample", "10x12", 4]),
        (lambda: bd_downsample(np.zeros((8, 8, 3), np.float32), 4), ["bd_downsample", "uint8", "float32"]),
        (lambda: bd_downsample(np.zeros((8, 8), np.uint8), 4), ["(H, W, C)", "(8, 8)"]),
    ],
)
def test_bad_input_is_named(call, names):
    with refuses(*names):
        call()
