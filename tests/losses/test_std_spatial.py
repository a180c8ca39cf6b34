"""The spatial term of space-time distillation: maps, reduction, normalization, gradients."""

import numpy as np
import pytest
import torch

from kdsr_arch.losses.spatial_attention_loss import MAPS, SpatialAttentionLoss, attention_map
from tests.helpers.messages import refuses

GOLDEN = {"sum_abs": "sum_abs", "sum_square": "sum_abs2", "max_square": "max_abs2"}


def plain(feature, kind):
    """The definition, written out."""
    if kind == "sum_abs":
        return feature.abs().sum(1)
    return feature.square().sum(1) if kind == "sum_square" else feature.square().amax(1)


@pytest.mark.parametrize("kind", MAPS)
def test_maps_equal_the_golden_ones(vectors, kind):
    data = vectors("std_attention")
    expected = data[f"out64/{GOLDEN[kind]}"]
    got = attention_map(torch.from_numpy(data["in/F"]), kind)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=2e-6, atol=1e-6 * np.abs(expected).max())
    wide = attention_map(torch.from_numpy(data["in/F"].astype(np.float64)), kind)
    np.testing.assert_allclose(wide.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_is_that_of_the_definition(kind, layout):
    feature = torch.randn(2, 5, 4, 3, dtype=torch.float64).to(memory_format=layout)
    feature[0, :, 1, 1] = 0  # a dead pixel has gradient zero, not NaN
    a, b = (feature.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
    pull = torch.randn(2, 4, 3, dtype=torch.float64)
    (attention_map(a, kind) * pull).sum().backward()
    (plain(b, kind) * pull).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_low_precision_features_are_summed_in_float32():
    feature = torch.randn(1, 64, 3, 3, dtype=torch.bfloat16).requires_grad_()
    got = attention_map(feature)
    torch.testing.assert_close(got, feature.float().square().sum(1))
    got.sum().backward()
    torch.testing.assert_close(feature.grad, 2 * feature.detach())


def test_value_by_hand():
    student = torch.tensor([[[[1.0, 2.0]], [[0.0, 1.0]]], [[[0.0, 0.0]], [[0.0, 0.0]]]])  # maps [1, 5], [0, 0]
    teacher = torch.tensor([[[[2.0, 0.0]]], [[[1.0, 1.0]]]])  # maps [4, 0], [1, 1]
    # frame 0: 9 and 25, frame 1: 1 and 1
    assert SpatialAttentionLoss()(student, teacher) == pytest.approx(36 / 4)
    assert SpatialAttentionLoss(reduction="sum")(student, teacher) == pytest.approx(36 / 2)
    assert SpatialAttentionLoss(criterion="l1")(student, teacher) == pytest.approx((3 + 5 + 1 + 1) / 4)
    # the unsquared norm of each frame: roots of 34 and 2, over those of the number of pixels where it is a mean
    assert SpatialAttentionLoss(criterion="norm", reduction="sum")(student, teacher) == pytest.approx(
        (34**0.5 + 2**0.5) / 2
    )
    assert SpatialAttentionLoss(criterion="norm")(student, teacher) == pytest.approx((17**0.5 + 1) / 2)
    # divided by the teacher's mean, 1.5: squared differences fall by 2.25
    assert SpatialAttentionLoss(normalize="teacher_mean")(student, teacher) == pytest.approx(9 / 2.25)


def test_own_mean_ignores_the_scale_of_the_student():
    student, teacher = torch.randn(2, 4, 5, 5), torch.randn(2, 6, 5, 5)
    loss = SpatialAttentionLoss(normalize="own_mean")
    torch.testing.assert_close(loss(student, teacher), loss(3 * student, teacher))
    assert not torch.isclose(SpatialAttentionLoss()(student, teacher), SpatialAttentionLoss()(3 * student, teacher))


def test_the_gradient_of_the_unsquared_norm_does_not_vanish_with_the_difference():
    teacher = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    sizes = {}
    for criterion in ("l2", "norm"):
        for apart in (1e-2, 1e-4):
            student = (teacher * (1 + apart)).requires_grad_()
            SpatialAttentionLoss(criterion=criterion)(student, teacher).backward()
            sizes[criterion, apart] = student.grad.norm().item()
    assert sizes["norm", 1e-4] == pytest.approx(sizes["norm", 1e-2], rel=0.02)
    assert sizes["l2", 1e-4] == pytest.approx(sizes["l2", 1e-2] / 100, rel=0.02)
    student = teacher.clone().requires_grad_()
    SpatialAttentionLoss(criterion="norm")(student, teacher).backward()
    assert not student.grad.any(), "no NaN where both are equal"


def test_equal_features_are_at_zero_whatever_their_order_of_channels():
    feature = torch.randn(2, 4, 5, 5)
    for kind in MAPS:
        assert SpatialAttentionLoss(map=kind)(feature, feature.flip(1)) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("option", [{"map": "sum"}, {"normalize": "max"}, {"criterion": "l3"}, {"reduction": "max"}])
def test_unknown_options_are_refused(option):
    with refuses("SpatialAttentionLoss", *option, *option.values()):
        SpatialAttentionLoss(**option)
