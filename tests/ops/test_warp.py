"""Warping: identity, whole shifts, and agreement with other implementations; forward splats and their definition."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from kdsr_arch.ops.warp import backward_warp, forward_splat
from tests.helpers.messages import refuses

SIZES = [(8, 8), (7, 13), (1, 5), (48, 31)]


@pytest.mark.parametrize("border", ["zeros", "border"])
@pytest.mark.parametrize("size", SIZES)
def test_zero_flow_is_the_identity_to_the_bit(size, border, device):
    x = torch.randn(2, 3, *size, device=device)
    assert torch.equal(backward_warp(x, torch.zeros(2, 2, *size, device=device), border), x)


@pytest.mark.parametrize("border", ["zeros", "border"])
def test_whole_shift_is_exact(border, device):
    x = torch.randn(1, 2, 11, 14, device=device)
    flow = torch.tensor([3.0, -2.0], device=device).view(1, 2, 1, 1).expand(1, 2, 11, 14)
    padded = F.pad(x, (0, 3, 2, 0), mode="constant" if border == "zeros" else "replicate")
    assert torch.equal(backward_warp(x, flow, border), padded[:, :, :11, 3:])


@pytest.mark.parametrize("border", ["zeros", "border"])
@pytest.mark.parametrize("size", [(8, 8), (7, 13), (48, 31)])
def test_equals_grid_sample_in_value_and_gradient(size, border):
    h, w = size
    x = torch.randn(2, 3, h, w, dtype=torch.float64, requires_grad=True)
    flow = (6 * torch.randn(2, 2, h, w, dtype=torch.float64)).requires_grad_()
    column = (torch.arange(w) + flow[:, 0]) * 2 / (w - 1) - 1
    row = (torch.arange(h).view(-1, 1) + flow[:, 1]) * 2 / (h - 1) - 1
    expected = F.grid_sample(x, torch.stack((column, row), -1), padding_mode=border, align_corners=True)
    warped = backward_warp(x, flow, border)
    torch.testing.assert_close(warped, expected)
    for ours, reference in zip(
        torch.autograd.grad(warped.square().sum(), (x, flow)),
        torch.autograd.grad(expected.square().sum(), (x, flow)),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference)


@pytest.mark.filterwarnings("ignore")  # basicsr's own
@pytest.mark.parametrize("border", ["zeros", "border"])
def test_equals_basicsr_flow_warp(border):
    from basicsr.archs.arch_util import flow_warp

    x, flow = torch.randn(1, 3, 20, 27), 3 * torch.randn(1, 2, 20, 27)
    expected = flow_warp(x, flow.permute(0, 2, 3, 1), padding_mode=border)
    torch.testing.assert_close(backward_warp(x, flow, border), expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("border", ["zeros", "border"])
def test_gradcheck(border):
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    flow = (2 * torch.randn(1, 2, 5, 6, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: backward_warp(a, b, border), (x, flow))


def test_border_has_no_gradient_outside_and_at_the_outermost_pixels():
    x, flow = torch.randn(1, 1, 4, 4), torch.zeros(1, 2, 4, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(backward_warp(x, flow, "border").sum(), flow)
    assert not grad[0, 0, :, [0, 3]].any() and not grad[0, 1, [0, 3]].any()
    assert grad[0, 0, 0, 1] == x[0, 0, 0, 2] - x[0, 0, 0, 1]


def test_flow_to_infinity():
    x, far = torch.rand(1, 1, 4, 5), torch.full((1, 2, 4, 5), float("inf"))
    assert not backward_warp(x, far).any()
    assert torch.equal(backward_warp(x, far, "border"), x[:, :, 3:, 4:].expand_as(x))
    assert torch.equal(backward_warp(x, -far, "border"), x[:, :, :1, :1].expand_as(x))


def test_autocast_keeps_positions_exact():
    x = torch.randn(1, 3, 64, 300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(backward_warp(x, torch.zeros(1, 2, 64, 300).bfloat16()), x)
    assert backward_warp(x.bfloat16(), torch.zeros(1, 2, 64, 300)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("x", "flow", "border", "names"),
    [
        ((1, 3, 4, 5), (1, 2, 5, 4), "zeros", [(1, 2, 4, 5), (1, 2, 5, 4)]),
        ((3, 4, 5), (2, 4, 5), "zeros", ["(B, 2, H, W)", (2, 4, 5)]),
        ((1, 3, 4, 5), (1, 2, 4, 5), "mirror", ["border", "'mirror'", "'zeros'", "'border'"]),
    ],
)
def test_bad_input_is_named(x, flow, border, names):
    with refuses("backward_warp", *names):
        backward_warp(torch.zeros(x), torch.zeros(flow), border)


# ------------------------------------------------------------------------------------------------------ forward splat


def splat_by_loops(x, flow, scale):
    """The definition, pixel by pixel."""
    batch, channels, height, width = x.shape
    out = x.new_zeros(batch, channels, height * scale, width * scale)
    for b, row, column in itertools.product(range(batch), range(height), range(width)):
        dx, dy = ((start + shift) * scale for start, shift in zip((column, row), flow[b, :, row, column], strict=True))
        for y, c in itertools.product((dy.floor(), dy.floor() + 1), (dx.floor(), dx.floor() + 1)):
            share = (1 - (dy - y).abs()) * (1 - (dx - c).abs())
            place = int(y.clamp(0, height * scale - 1)), int(c.clamp(0, width * scale - 1))
            out[b, :, place[0], place[1]] += share * x[b, :, row, column]
    return out


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("reach", [0.4, 5.0])
def test_splat_is_its_definition(scale, reach):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    flow = reach * torch.randn(2, 2, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(forward_splat(x, flow, scale), splat_by_loops(x, flow, scale))


@pytest.mark.parametrize("scale", [1, 3])
def test_splat_at_zero_flow_fills_with_zeros(scale, device):
    x = torch.randn(2, 3, 5, 4, device=device)
    large = forward_splat(x, torch.zeros(2, 2, 5, 4, device=device), scale)
    assert torch.equal(large[..., ::scale, ::scale], x)
    assert large.count_nonzero() == x.count_nonzero()


def test_splat_loses_and_adds_nothing_and_is_the_transpose_of_the_warp():
    x, y = (torch.randn(1, 2, 6, 7, dtype=torch.float64) for _ in range(2))
    flow = 2 * torch.randn(1, 2, 6, 7, dtype=torch.float64)
    far = torch.full_like(flow, 100.0)
    for each in (flow, far):
        torch.testing.assert_close(forward_splat(x, each, 4).sum((2, 3)), x.sum((2, 3)))
    there, back = (forward_splat(x, flow) * y).sum(), (x * backward_warp(y, flow, "border")).sum()
    torch.testing.assert_close(there, back)


def test_splat_gradcheck():
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    flow = torch.randn(1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: forward_splat(a, b, 2), (x, flow))


def test_splat_keeps_its_places_in_half_precision_and_far_from_the_corner():
    x, flow = torch.rand(1, 1, 1, 4000), torch.full((1, 2, 1, 4000), 0.1)
    large = forward_splat(x.bfloat16(), flow.bfloat16(), 4)
    assert large.dtype == torch.bfloat16
    double = forward_splat(x.double(), flow.double(), 4)
    torch.testing.assert_close(forward_splat(x, flow, 4).double(), double, atol=1e-6, rtol=0)


def test_splat_of_bad_input():
    nan = forward_splat(torch.rand(1, 1, 3, 3), torch.full((1, 2, 3, 3), float("nan")), 2)
    assert nan.isnan().any() and nan.shape == (1, 1, 6, 6)
    with refuses("forward_splat", (1, 3, 4, 5), (1, 2, 5, 4)):
        forward_splat(torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 5, 4))
