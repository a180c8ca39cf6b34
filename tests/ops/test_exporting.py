"""The forms for exported graphs are the usual operations, to rounding."""

import numpy as np
import pytest
import torch

from kdsr_arch.ops.banded import keys_kernel
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.ops.deform_conv import deform_conv2d
from kdsr_arch.ops.exporting import (
    bicubic_by_phases,
    crop_by_gathering,
    deform_conv_by_grid,
    export_form,
    exporting,
    replicate_to_multiple,
    warp_by_gathering,
)
from kdsr_arch.ops.warp import backward_warp


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("size", [(2, 3), (7, 9)])
def test_phases_enlarge_as_matlab_does(factor, size):
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(bicubic_by_phases(x, factor), upsample_bicubic(x, factor), atol=2e-6, rtol=0)


@pytest.mark.parametrize("border", ["zeros", "border"])
def test_gathering_warps_as_grid_sampling_does(border):
    x, flow = torch.rand(2, 3, 17, 23), 6 * torch.randn(2, 2, 17, 23)
    torch.testing.assert_close(warp_by_gathering(x, flow, border), backward_warp(x, flow, border), atol=2e-6, rtol=0)
    torch.testing.assert_close(warp_by_gathering(x, torch.zeros_like(flow), border), x, atol=0, rtol=0)


def test_warping_in_half_precision_keeps_positions_exact():
    x = torch.rand(1, 1, 4, 600).half()
    flow = torch.stack([torch.full((1, 4, 600), 0.25), torch.zeros(1, 4, 600)], 1).half()
    moved = warp_by_gathering(x, flow, "border")
    wanted = 0.75 * x[..., :-1].float() + 0.25 * x[..., 1:].float()
    assert moved.dtype == torch.float16
    assert (moved[..., :-1].float() - wanted).abs().max() < 1e-3


@pytest.mark.parametrize(("kernel", "dilation", "groups"), [(3, 1, 1), (3, 2, 2), (1, 1, 1), (5, 1, 4)])
def test_one_sampling_convolves_as_the_deformable_convolution_does(kernel, dilation, groups):
    x, taps, offset_groups = torch.randn(2, 8, 11, 14), kernel**2, 2
    offset = 3 * torch.randn(2, offset_groups * 2 * taps, 11, 14)
    mask, weight = torch.rand(2, offset_groups * taps, 11, 14), torch.randn(4, 8 // groups, kernel, kernel)
    bias, pad = torch.randn(4), dilation * (kernel // 2)
    wanted = deform_conv2d(x, offset, weight, bias, 1, pad, dilation, mask)
    made = deform_conv_by_grid(x, offset, mask, weight, bias, (dilation, dilation))
    torch.testing.assert_close(made, wanted, atol=5e-5, rtol=1e-5)


def test_deformable_samples_in_half_precision_keep_their_places():
    x = torch.rand(1, 1, 4, 600)
    offset = torch.stack([torch.zeros(4, 600), torch.full((4, 600), 0.25)])[None]
    weight, mask = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 4, 600)
    made = deform_conv_by_grid(x.half(), offset.half(), mask.half(), weight.half(), None)
    wanted = deform_conv2d(x, offset, weight, mask=mask)
    assert made.dtype == torch.float16 and (made.float() - wanted).abs().max() < 2e-3


def test_sides_are_filled_up_and_cut_by_reading():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    filled = replicate_to_multiple(x, 4)
    assert torch.equal(filled, torch.nn.functional.pad(x, (0, 0, 0, 1), mode="replicate"))
    assert torch.equal(crop_by_gathering(filled, 3, 2), x[..., :2])


def test_the_switch_is_put_back():
    with pytest.raises(ValueError), export_form():
        assert exporting()
        raise ValueError
    assert not exporting()


def test_keys_kernel_by_hand():
    np.testing.assert_allclose(keys_kernel(np.array([0.0, 0.5, 1.0, -1.5, 2.0, 3.0])), [1, 0.5625, 0, -0.0625, 0, 0])
