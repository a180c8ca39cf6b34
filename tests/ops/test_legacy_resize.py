"""TensorFlow 1's resize: its definition by loops, constants, and its place on BD data."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from kdsr_arch.archs.arch_util import Base
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.ops.legacy_resize import resize_legacy
from tests.helpers.messages import refuses


def kernel(distance, kind):
    """Keys' kernel with a = -0.75 as it is usually written, or a triangle."""
    a, d = -0.75, abs(distance)
    if kind == "bilinear":
        return max(0.0, 1 - d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def row_by_loops(row, side, kind):
    """One row: output i looks at i * length / side, and reads the nearest pixel beyond the border."""
    out = torch.zeros(side, dtype=row.dtype)
    for i in range(side):
        place = i * len(row) / side
        for j in range(math.floor(place) - 2, math.floor(place) + 4):
            out[i] += kernel(place - j, kind) * row[min(max(j, 0), len(row) - 1)]
    return out


@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("length", "side"), [(5, 20), (4, 13), (1, 4), (7, 7)])
def test_it_is_its_definition_along_both_axes(kind, length, side):
    row = torch.randn(length, dtype=torch.float64)
    wanted = row_by_loops(row, side, kind)
    across = resize_legacy(row.view(1, 1, 1, -1), 3, side, kind)
    down = resize_legacy(row.view(1, 1, -1, 1), side, 2, kind)
    torch.testing.assert_close(across, wanted.view(1, 1, 1, -1).expand(1, 1, 3, side))
    torch.testing.assert_close(down, wanted.view(1, 1, -1, 1).expand(1, 1, side, 2))


def test_tensorflows_numbers(vectors):
    z = vectors("pfnl")
    frames = torch.from_numpy(z["in/x"]).permute(0, 1, 4, 2, 3)
    height, width = z["out/bicubic"].shape[1:3]
    ours = resize_legacy(frames[:, frames.shape[1] // 2], height, width)
    torch.testing.assert_close(ours, torch.from_numpy(z["out/bicubic"]).permute(0, 3, 1, 2), atol=2e-6, rtol=0)


def test_on_bd_data_it_is_in_place_and_matlabs_is_not():
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12), size=(96, 96), mode="bicubic")
    lq = torch.from_numpy(gaussian_filter(image.numpy(), 1.6, mode="mirror", axes=(-2, -1))[..., ::4, ::4].copy())
    inner = (..., slice(8, -8), slice(8, -8))
    errors = [(large - image)[inner].square().mean() for large in (resize_legacy(lq, 96, 96), upsample_bicubic(lq, 4))]
    assert errors[0] < 0.5 * errors[1]


def test_a_network_can_add_to_it():
    lq, sr = torch.rand(1, 3, 5, 6), torch.rand(1, 3, 20, 24)
    torch.testing.assert_close(Base(4, "legacy")(sr, lq), sr + resize_legacy(lq, 20, 24))


def test_gradient():
    x = torch.rand(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: resize_legacy(t, 6, 9), (x,))


def test_an_unknown_kind_is_refused():
    with refuses("kind", "'lanczos'", "'bicubic'"):
        resize_legacy(torch.rand(1, 1, 3, 3), 6, 6, "lanczos")
