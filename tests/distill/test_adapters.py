"""Adapters: built from shapes, as the option says."""

import pytest
import torch
from torch.nn import functional as F

from kdsr_arch.distill.adapters import Adapter, build_adapter
from kdsr_arch.options.schema_train import AdapterOptions
from tests.helpers.messages import refuses


def build(spec, student, teacher, channels=True, size=True):
    options = AdapterOptions.model_validate(spec) if isinstance(spec, dict) else spec
    return build_adapter(
        options, torch.Size(student), torch.Size(teacher), align_channels=channels, align_size=size, where="term x"
    )


def test_auto_builds_what_differs_and_the_loss_needs():
    assert build("auto", (2, 8, 4, 4), (2, 8, 4, 4)) is None
    both = build("auto", (2, 8, 4, 4), (2, 16, 8, 8))
    assert both(torch.rand(2, 8, 4, 4), (8, 8)).shape == (2, 16, 8, 8)
    assert both.describe() == "conv1x1 8->16 + resize"
    resize = build("auto", (2, 8, 4, 4), (2, 16, 8, 8), channels=False)
    assert resize.conv is None and resize(torch.rand(2, 8, 4, 4), (8, 8)).shape == (2, 8, 8, 8)
    conv = build("auto", (2, 8, 4, 4), (2, 16, 8, 8), size=False)
    assert conv(torch.rand(2, 8, 4, 4), (8, 8)).shape == (2, 16, 4, 4)
    assert build("auto", (2, 8, 4, 4), (2, 16, 8, 8), channels=False, size=False) is None


def test_resize_is_the_mean_of_covered_pixels_down_and_bilinear_up():
    x = torch.rand(1, 2, 4, 6)
    down = build("auto", (1, 2, 4, 6), (1, 2, 2, 3))
    torch.testing.assert_close(down(x, (2, 3)), F.avg_pool2d(x, 2))
    up = build("auto", (1, 2, 4, 6), (1, 2, 8, 12))
    torch.testing.assert_close(up(x, (8, 12)), F.interpolate(x, (8, 12), mode="bilinear", align_corners=False))


def test_explicit_adapter_starts_as_identity_where_channels_agree():
    adapter = build({"type": "conv3x3"}, (1, 3, 5, 5), (1, 3, 5, 5))
    x = torch.rand(1, 3, 5, 5)
    torch.testing.assert_close(adapter(x, (5, 5)), x)
    assert adapter.conv.kernel_size == (3, 3)
    assert build({"type": "conv1x1", "bias": False}, (1, 3, 5, 5), (1, 4, 5, 5)).conv.bias is None
    assert build({"type": "resize", "resize": "area"}, (1, 3, 5, 5), (1, 3, 5, 5)).conv is None


@pytest.mark.parametrize(
    "spec, student, teacher, names",
    [
        ("none", (1, 8, 4, 4), (1, 16, 4, 4), ["(1, 8, 4, 4)", "(1, 16, 4, 4)", "adapter: none", "adapter: auto"]),
        ("auto", (1, 8, 4), (1, 16, 4), ["(1, 8, 4)", "(1, 16, 4)"]),
        ({"type": "conv1x1"}, (1, 8), (1, 16), ["(1, 8)", "(1, 16)"]),
    ],
)
def test_what_cannot_be_is_refused(spec, student, teacher, names):
    with refuses("term x", *names):
        build(spec, student, teacher)


def test_shrinking_comes_before_the_convolution():
    adapter = Adapter((2, 3), "area")
    x = torch.rand(1, 2, 8, 8)
    torch.testing.assert_close(adapter(x, (2, 2)), adapter.conv(F.avg_pool2d(x, 4)))
