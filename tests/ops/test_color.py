"""Color conversion against basicsr's and against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdsr_arch.ops.color import rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb
from tests.helpers.messages import refuses


def _hwc(x: torch.Tensor) -> np.ndarray:
    return x.permute(1, 2, 0).numpy()


def test_equals_basicsr():
    from basicsr.utils.color_util import bgr2ycbcr, rgb2ycbcr, ycbcr2rgb

    x = torch.rand(3, 40, 50)
    image = _hwc(x)
    assert np.abs(_hwc(rgb_to_y(x))[..., 0] - rgb2ycbcr(image, y_only=True)).max() <= 1e-6
    assert np.abs(_hwc(rgb_to_y(x))[..., 0] - bgr2ycbcr(image[..., ::-1], y_only=True)).max() <= 1e-6
    ycbcr = rgb_to_ycbcr(x)
    assert np.abs(_hwc(ycbcr) - rgb2ycbcr(image)).max() <= 1e-6
    assert np.abs(_hwc(ycbcr_to_rgb(ycbcr)) - ycbcr2rgb(_hwc(ycbcr))).max() <= 1e-5  # basicsr's inverse is rounded


def test_known_colors():
    colors = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0]]).T.view(3, 1, 3)
    expected = torch.tensor([[16.0, 128, 128], [235, 128, 128], [81.481, 90.203, 240]]).T.view(3, 1, 3) / 255
    torch.testing.assert_close(rgb_to_ycbcr(colors), expected)


def test_there_and_back_for_any_batch_and_under_autocast():
    x = torch.rand(2, 4, 3, 9, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ycbcr = rgb_to_ycbcr(x)
        assert rgb_to_y(x).shape == (2, 4, 1, 9, 8)
        assert torch.equal(rgb_to_y(x), ycbcr[..., :1, :, :])
        torch.testing.assert_close(ycbcr_to_rgb(ycbcr), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("function", [rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb])
def test_gradcheck(function):
    assert torch.autograd.gradcheck(function, (torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True),))


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8), (2, 4, 3, 8)])
def test_other_channels_are_refused(shape):
    with refuses("(..., 3, H, W)", shape):
        rgb_to_y(torch.zeros(shape))
