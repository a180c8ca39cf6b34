"""Deformable convolution against golden numbers, against the definition and against ordinary convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdsr_arch.ops import deform_conv
from kdsr_arch.ops.deform_conv import deform_conv2d
from tests.helpers.messages import refuses

OPERANDS = ("x", "offset", "weight", "bias", "mask")


def _cases(data) -> list[str]:
    return sorted({key.split("/")[1] for key in data.files if key.startswith("hp/")})


def _golden_call(data, case: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    keys = {name: f"in/{case}/{name}" for name in OPERANDS}
    tensors = {n: torch.from_numpy(data[k]).to(dtype).requires_grad_() for n, k in keys.items() if k in data.files}
    names = ("stride", "padding", "dilation")
    geometry = {n: int(data[f"hp/{case}/{n}"]) for n in names if f"hp/{case}/{n}" in data.files}
    args = [tensors.get(n) for n in ("x", "offset", "weight", "bias")]
    return tensors, deform_conv2d(*args, **({"padding": 1} | geometry), mask=tensors.get("mask"))


@pytest.mark.parametrize(
    ("dtype", "value_tol", "grad_tol"), [(torch.float32, 1e-5, 2e-5), (torch.float64, 1e-12, 1e-6)]
)
def test_golden_values_and_gradients(vectors, dtype, value_tol, grad_tol):
    data = vectors("deform_conv")
    assert _cases(data)
    for case in _cases(data):
        tensors, y = _golden_call(data, case, dtype)
        expected = torch.from_numpy(data[f"out64/{case}/y"])
        assert (y.double() - expected).abs().max() <= value_tol, case
        (y * torch.from_numpy(data[f"in/{case}/gout"]).to(dtype)).sum().backward()
        for name, tensor in tensors.items():
            reference = torch.from_numpy(data[f"grad/{case}/{name}"]).to(dtype)
            assert (tensor.grad - reference).abs().max() <= grad_tol * reference.abs().max(), (case, name)


def test_golden_integer_offsets(vectors):
    data = vectors("deform_conv")
    tensors, y = _golden_call(data, "int", torch.float32)
    assert (y - torch.from_numpy(data["out/int/y"])).abs().max() <= 1e-5
    zero, one = torch.zeros_like(tensors["offset"]), torch.ones_like(tensors["mask"])
    y = deform_conv2d(tensors["x"], zero, tensors["weight"], padding=1, mask=one)
    assert (y - torch.from_numpy(data["out/int/y_zero_offset_unit_mask"])).abs().max() <= 1e-5


def _definition(x, offset, weight, bias, stride, padding, dilation, mask):
    """Four explicit neighbors per sample, by indexing; sample and tap loops in Python."""
    b, c, h, w = x.shape
    o, c_group, kh, kw = weight.shape
    ho, wo = offset.shape[2:]
    groups = offset.shape[1] // (2 * kh * kw)
    padded = F.pad(x, (2, 2, 2, 2)).view(b, groups, c // groups, h + 4, w + 4)
    columns = []
    for k in range(kh * kw):
        at = offset.view(b, groups, kh * kw, 2, ho, wo)[:, :, k]
        y = at[:, :, 0] + torch.arange(ho, dtype=x.dtype).view(-1, 1) * stride[0] - padding[0] + k // kw * dilation[0]
        z = at[:, :, 1] + torch.arange(wo, dtype=x.dtype) * stride[1] - padding[1] + k % kw * dilation[1]
        y, z = y.clamp(-2, h), z.clamp(-2, w)
        y0, z0 = y.detach().floor(), z.detach().floor()
        value = 0
        for dy in (0, 1):
            for dz in (0, 1):
                part = (y - y0 if dy else 1 - y + y0) * (z - z0 if dz else 1 - z + z0)
                index = ((y0 + dy + 2) * (w + 4) + z0 + dz + 2).long().clamp(max=(h + 4) * (w + 4) - 1)
                index = index.view(b, groups, 1, -1).expand(-1, -1, c // groups, -1)
                value = value + part.unsqueeze(2) * padded.flatten(3).gather(3, index).unflatten(3, (ho, wo))
        if mask is not None:
            value = value * mask.view(b, groups, kh * kw, 1, ho, wo)[:, :, k]
        columns.append(value.reshape(b, c, ho * wo))
    matrix = torch.stack(columns, 2).view(b, c // c_group, c_group * kh * kw, -1)
    product = weight.view(c // c_group, o // (c // c_group), -1) @ matrix
    return product.view(b, o, ho, wo) + bias.view(-1, 1, 1)


GEOMETRIES = [
    # batch, channels, out channels, height, width, kernel, groups, offset groups, stride, padding, dilation, mask
    (2, 6, 4, 7, 9, (3, 3), 1, 3, (1, 1), (1, 1), (1, 1), True),
    (1, 8, 6, 8, 5, (3, 3), 2, 4, (2, 1), (0, 2), (1, 2), True),
    (3, 4, 4, 6, 11, (1, 5), 4, 1, (1, 3), (1, 0), (2, 1), False),
    (1, 4, 2, 1, 1, (3, 3), 1, 2, (1, 1), (1, 1), (1, 1), True),
]


def _random_operands(geometry, dtype, whole_pixels=False):
    b, c, o, h, w, kernel, groups, offset_groups, stride, padding, dilation, masked = geometry
    taps = kernel[0] * kernel[1]
    ho, wo = F.conv2d(torch.zeros(1, 1, h, w), torch.zeros(1, 1, *kernel), None, stride, padding, dilation).shape[2:]
    offset = torch.randn(b, offset_groups * 2 * taps, ho, wo, dtype=torch.float64) * 2
    offset[torch.rand_like(offset) < 0.1] *= 50
    offset = offset.round() if whole_pixels else offset
    tensors = [
        torch.randn(b, c, h, w, dtype=dtype),
        offset.to(dtype),
        torch.randn(o, c // groups, *kernel, dtype=dtype),
        torch.randn(o, dtype=dtype),
        torch.rand(b, offset_groups * taps, ho, wo, dtype=dtype) if masked else None,
    ]
    return [t if t is None else t.requires_grad_() for t in tensors], (stride, padding, dilation)


@pytest.mark.parametrize("whole_pixels", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equals_definition_in_value_and_gradient(geometry, whole_pixels, device):
    operands, static = _random_operands(geometry, torch.float64, whole_pixels)
    results = []
    for function, place in ((deform_conv2d, device), (_definition, torch.device("cpu"))):
        x, offset, weight, bias, mask = (t if t is None else t.to(place) for t in operands)
        y = function(x, offset, weight, bias, *static, mask)
        leaves = [t for t in operands if t is not None]
        results.append([y.cpu(), *torch.autograd.grad(y.square().sum(), leaves)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_float32_gradient_keeps_to_the_neighbors_of_the_sample():
    """A position rounded across a pixel would turn the offset's gradient, which is not continuous there."""
    geometry = (1, 4, 4, 61, 53, (3, 3), 1, 2, (1, 1), (1, 1), (1, 1), True)
    (x, offset, weight, bias, mask), static = _random_operands(geometry, torch.float32)
    with torch.no_grad():  # a quarter of the resolution of fractions of 64 below whole pixels
        offset.copy_(offset.clamp(-3, 3).round() - 2.0**-20)
    y = deform_conv2d(x, offset, weight, bias, *static, mask)
    grad = torch.autograd.grad(y.sum(), offset)[0][..., :11, :11]  # float32 itself holds positions below 16 well enough
    exact = [t.detach().double().requires_grad_() for t in (x, offset, weight, bias, mask)]
    expected = torch.autograd.grad(_definition(*exact[:4], *static, exact[4]).sum(), exact[1])[0][..., :11, :11]
    assert (grad - expected).abs().max() <= 5e-5 * expected.abs().max()


def test_gradcheck_in_double_precision():
    geometry = (1, 4, 2, 4, 5, (3, 3), 2, 2, (1, 1), (1, 1), (1, 1), True)
    (x, offset, weight, bias, mask), static = _random_operands(geometry, torch.float64)
    inputs = (x, offset, weight, bias)
    assert torch.autograd.gradcheck(lambda *t: deform_conv2d(*t[:4], *static, t[4]), (*inputs, mask))
    assert torch.autograd.gradcheck(lambda *t: deform_conv2d(*t, *static), inputs)


@pytest.mark.parametrize("stride, padding, dilation", [(1, 1, 1), (2, 0, 2), ((1, 2), (2, 1), (2, 1))])
def test_zero_offset_is_ordinary_convolution(stride, padding, dilation):
    x, weight, bias = torch.randn(2, 4, 12, 13), torch.randn(6, 2, 3, 3), torch.randn(6)
    expected = F.conv2d(x, weight, bias, stride, padding, dilation, groups=2)
    offset = torch.zeros(2, 2 * 18, *expected.shape[2:])
    torch.testing.assert_close(deform_conv2d(x, offset, weight, bias, stride, padding, dilation), expected)


@pytest.mark.parametrize("value", [1e30, -1e30, float("inf"), float("-inf")])
def test_sample_at_infinity_is_zero(value):
    x, weight = torch.rand(1, 2, 5, 5, requires_grad=True), torch.randn(3, 2, 3, 3)
    offset = torch.full((1, 18, 5, 5), value, requires_grad=True)
    y = deform_conv2d(x, offset, weight, padding=1)
    y.sum().backward()
    assert not y.any() and not x.grad.any() and not offset.grad.any()


def test_nan_offset_shows_at_its_own_position_only():
    x, weight = torch.rand(1, 2, 5, 5, requires_grad=True), torch.randn(3, 2, 3, 3)
    offset = torch.zeros(1, 18, 5, 5)
    offset[0, 3, 2, 2] = float("nan")
    y = deform_conv2d(x, offset.requires_grad_(), weight, padding=1)
    y.sum().backward()
    where = torch.zeros(5, 5, dtype=torch.bool)
    where[2, 2] = True
    assert torch.equal(y.isnan()[0, 0], where)


def test_block_size_changes_nothing(monkeypatch):
    (x, offset, weight, bias, mask), static = _random_operands(GEOMETRIES[0], torch.float64)
    results = []
    for budget in (1, 4000, 1 << 30):
        monkeypatch.setattr(deform_conv, "_CPU_BLOCK", budget)
        y = deform_conv2d(x, offset, weight, bias, *static, mask)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, offset, weight, bias, mask])])
    for blocked in results[:2]:
        for a, b in zip(blocked, results[2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_autocast_and_half_are_computed_in_float32():
    (x, offset, weight, bias, mask), static = _random_operands(GEOMETRIES[0], torch.float32)
    expected = deform_conv2d(x, offset, weight, bias, *static, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half_offset = offset.bfloat16().float()
        mixed = deform_conv2d(x, half_offset.bfloat16(), weight, bias, *static, mask)
    assert torch.equal(mixed, deform_conv2d(x, half_offset, weight, bias, *static, mask))
    half = deform_conv2d(x.bfloat16(), offset, weight, bias, *static, mask)
    assert half.dtype == torch.bfloat16
    assert (half - expected).abs().max() <= 0.02 * expected.abs().max()


def test_empty_batch():
    y = deform_conv2d(torch.zeros(0, 4, 5, 6), torch.zeros(0, 18, 5, 6), torch.zeros(2, 4, 3, 3), padding=1)
    assert y.shape == (0, 2, 5, 6)


def test_traced_whole_by_the_compiler():
    (x, offset, weight, bias, mask), static = _random_operands(GEOMETRIES[0], torch.float32)
    compiled = torch.compile(deform_conv2d, backend="aot_eager", fullgraph=True)
    results = []
    for function in (deform_conv2d, compiled):
        y = function(x, offset, weight, bias, *static, mask)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, offset, weight])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equals_torchvision(geometry, device):
    operands, static = _random_operands(geometry, torch.float64)
    x, offset, weight, bias, mask = (t if t is None else t.to(device) for t in operands)
    from torchvision.ops.deform_conv import deform_conv2d as compiled

    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        pytest.skip("torchvision's compiled operators do not load here")

    expected = compiled(x, offset, weight, bias, *static, mask)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, bias, *static, mask), expected)


@pytest.mark.parametrize(
    ("shapes", "names"),
    [
        (((1, 4, 5, 5), (1, 20, 5, 5), (2, 4, 3, 3), None), ["offset", (1, 20, 5, 5), (1, 18, 5, 5)]),
        (((1, 4, 5, 5), (1, 18, 4, 5), (2, 4, 3, 3), None), ["offset", (1, 18, 4, 5), (1, 18, 5, 5)]),
        (((1, 4, 5, 5), (1, 18, 5, 5), (2, 4, 3, 3), (1, 18, 5, 5)), ["mask", (1, 18, 5, 5), (1, 9, 5, 5)]),
        (((1, 4, 5, 5), (1, 54, 5, 5), (2, 4, 3, 3), None), ["3 offset groups", (2, 4, 3, 3)]),
        (((1, 4, 5, 5), (1, 18, 5, 5), (2, 3, 3, 3), None), ["groups", (2, 3, 3, 3)]),
        (((4, 5, 5), (18, 5, 5), (2, 4, 3, 3), None), [4, (4, 5, 5), (18, 5, 5)]),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes, names):
    x, offset, weight, mask = (None if s is None else torch.zeros(s) for s in shapes)
    with refuses("deform_conv2d", *names):
        deform_conv2d(x, offset, weight, padding=1, mask=mask)


def test_backward_inside_autocast_is_the_one_outside():
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    offset, mask = torch.randn(1, 36, 6, 6), torch.rand(1, 18, 6, 6)
    weight = torch.randn(4, 4, 3, 3)
    deform_conv2d(x, offset, weight, padding=1, mask=mask).square().sum().backward()
    outside, x.grad = x.grad, None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        deform_conv2d(x, offset, weight, padding=1, mask=mask).square().sum().backward()
    torch.testing.assert_close(x.grad, outside)
