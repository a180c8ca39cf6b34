"""The blur degradation against SciPy, against basicsr's, and against its own laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from kdsr_arch.ops.degrade import bd_downsample, gaussian_downsample
from tests.helpers.messages import refuses


@pytest.mark.parametrize("sigma", [0.8, 1.6, 2.4])
@pytest.mark.parametrize("size", [(40, 61), (5, 7), (1, 9)])
def test_blur_equals_scipy(sigma, size):
    x = torch.rand(2, *size, dtype=torch.float64)
    expected = np.stack([gaussian_filter(plane, sigma, mode="mirror") for plane in x.numpy()])
    torch.testing.assert_close(gaussian_downsample(x, 1, sigma), torch.from_numpy(expected))
    torch.testing.assert_close(gaussian_downsample(x.float(), 1, sigma), torch.from_numpy(expected).float())


@pytest.mark.filterwarnings("ignore")  # basicsr's own
def test_downsample_equals_basicsr_duf():
    from basicsr.data.data_util import duf_downsample

    x = torch.rand(2, 3, 3, 48, 64)
    torch.testing.assert_close(gaussian_downsample(x, 4), duf_downsample(x, 13, 4), atol=1e-6, rtol=0)


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
    x = torch.full((1, 9, 9), 0.3)
    torch.testing.assert_close(gaussian_downsample(x, 1), x)


def test_gradcheck():
    x = torch.rand(1, 8, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: gaussian_downsample(t, 3), (x,))


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: bd_downsample(np.zeros((10, 12, 3), np.uint8), 4), ["bd_downsample", "10x12", 4]),
        (lambda: bd_downsample(np.zeros((8, 8, 3), np.float32), 4), ["bd_downsample", "uint8", "float32"]),
        (lambda: bd_downsample(np.zeros((8, 8), np.uint8), 4), ["(H, W, C)", "(8, 8)"]),
        (lambda: gaussian_downsample(torch.zeros(3, 8, 8, dtype=torch.uint8), 1), ["floating point", "uint8"]),
        (lambda: gaussian_downsample(torch.zeros(3, 8, 8), 1, 0), ["scale", "sigma", 0]),
    ],
)
def test_bad_input_is_named(call, names):
    with refuses(*names):
        call()
