"""Bicubic resize against basicsr's, against MATLAB-made images, and against its own laws."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from kdsr_arch.ops import bicubic
from kdsr_arch.ops.bicubic import imresize, imresize_uint8, upsample_bicubic
from tests.helpers.messages import refuses


def _planar(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _outputs(data) -> list[str]:
    return sorted(key.removeprefix("out/") for key in data.files if key.startswith("out/"))


def test_golden_float(vectors):
    data = vectors("bicubic")
    assert _outputs(data)
    for name in _outputs(data):
        way, index = name.rsplit("_", 1)
        down = way.startswith("down")
        factor = int(way.removeprefix("down").removeprefix("up"))
        x = _planar(data[f"in/{'hr' if down else 'lr'}{index}"])
        y = imresize(x, 1 / factor if down else factor)
        expected = _planar(data[f"out/{name}"])
        assert y.shape == expected.shape and (y - expected).abs().max() <= 2e-6, name
        if not down:
            assert torch.equal(upsample_bicubic(x, factor), y)


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 0.37, 0.8, 1.5, 2, 3, 4, 2.7])
@pytest.mark.parametrize("antialias", [True, False])
def test_equals_basicsr(scale, antialias):
    from basicsr.utils.matlab_functions import imresize as reference

    x = torch.rand(3, 67, 151)
    expected = reference(x, scale, antialiasing=antialias)
    assert (imresize(x, scale, antialias) - expected).abs().max() <= 2e-6


def test_no_padding_needed_at_an_end():
    """basicsr raises here; the middle must be what it is with neighbors around it."""
    x = torch.rand(1, 16, 16)
    around = torch.rand(1, 32, 32)
    around[:, 8:24, 8:24] = x
    y = imresize(x, 0.25, antialias=False)
    torch.testing.assert_close(y, imresize(around, 0.25, antialias=False)[:, 2:6, 2:6], atol=1e-6, rtol=0)


@pytest.mark.parametrize("border", ["symmetric", "replicate"])
def test_border_rule_is_that_of_a_padded_image(border):
    x = torch.rand(2, 24, 20, dtype=torch.float64)
    mode = "symmetric" if border == "symmetric" else "edge"
    padded = np.pad(x.numpy(), ((0, 0), (16, 16), (16, 16)), mode=mode)
    inner = imresize(torch.from_numpy(padded), 0.25, border=border)[:, 4:-4, 4:-4]
    torch.testing.assert_close(imresize(x, 0.25, border=border), inner)


@pytest.mark.parametrize("scale", [1 / 8, 1 / 4, 0.3, 2.5])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 9)])
def test_images_smaller_than_the_kernel_and_constants(size, scale):
    y = imresize(torch.full((2, 1, *size), 0.7), scale)
    assert y.shape == (2, 1, math.ceil(size[0] * scale), math.ceil(size[1] * scale))
    torch.testing.assert_close(y, torch.full_like(y, 0.7))


def test_batch_views_dtypes_and_values_outside_range():
    x = torch.randn(2, 3, 4, 12, 18)
    y = imresize(x.transpose(-1, -2), 0.5)
    assert y.shape == (2, 3, 4, 9, 6)
    torch.testing.assert_close(y[1, 2], imresize(x[1, 2].transpose(-1, -2).contiguous(), 0.5))
    half = imresize(x.bfloat16(), 0.5)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, imresize(x.bfloat16().float(), 0.5).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(imresize(x, 0.5), imresize(x, 0.5).float())


def test_reduced_matmul_precision_does_not_reach_the_result():
    x = torch.rand(3, 40, 40)
    expected, before = imresize(x, 0.25), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert (imresize(x, 0.25) - expected).abs().max() < 1e-6
        u = (x * 255).byte().permute(1, 2, 0).numpy()
        relaxed = imresize_uint8(u, 0.25)
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.array_equal(relaxed, imresize_uint8(u, 0.25))


@pytest.mark.parametrize("scale", [0.5, 1 / 3, 1.5])
def test_gradcheck(scale):
    x = torch.rand(1, 7, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: imresize(t, scale), (x,))


def test_training_after_inference_mode():
    bicubic._blocks.clear()
    with torch.inference_mode():
        imresize(torch.rand(1, 20, 20), 0.5)
    x = torch.rand(1, 20, 20, requires_grad=True)
    imresize(x, 0.5).sum().backward()
    assert x.grad is not None and x.grad.any()


def test_exported_and_compiled():
    """Nothing that tracing makes may be left in the cache."""

    class Enlarge(torch.nn.Module):
        def forward(self, x):
            return upsample_bicubic(x, 2)

    x, net = torch.rand(1, 3, 20, 24, requires_grad=True), Enlarge()
    bicubic._blocks.clear()
    exported = torch.export.export(net, (x,), strict=False).module()
    expected = net(x)
    assert type(expected) is torch.Tensor
    assert torch.equal(exported(x), expected)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    grads = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in (net, compiled)]
    assert torch.equal(compiled(x), expected)
    torch.testing.assert_close(*grads)


def test_block_size_changes_nothing(monkeypatch):
    x = torch.rand(2, 50, 61, dtype=torch.float64)
    expected = imresize(x, 0.3)
    monkeypatch.setattr(bicubic, "_BLOCK_DOWN", 10**6)
    bicubic._blocks.clear()
    torch.testing.assert_close(imresize(x, 0.3), expected, rtol=0, atol=1e-14)
    bicubic._blocks.clear()


def test_golden_uint8(vectors):
    data = vectors("bicubic_uint8")
    assert _outputs(data)
    for name in _outputs(data):
        way, border, index = name.rsplit("_", 2)
        scale, image = 1 / int(way.removeprefix("down")), data[f"in/hr{index}"]
        expected = data[f"out/{name}"]
        assert np.array_equal(imresize_uint8(image, scale, border), expected), name


def _exact_axis(image: np.ndarray, factor: int) -> np.ndarray:
    """One axis in whole numbers: rational weights, symmetric border, round half up."""

    def kernel(x: Fraction) -> Fraction:
        x = abs(x)
        if x <= 1:
            return (3 * x**3 - 5 * x**2 + 2) / 2
        return (-(x**3) + 5 * x**2 - 8 * x + 4) / 2 if x <= 2 else Fraction(0)

    length = image.shape[0]
    rows = []
    for out in range(length // factor):
        center = Fraction(2 * out + 1) * factor / 2 - Fraction(1, 2)
        taps = range(math.floor(center) - 2 * factor, math.ceil(center) + 2 * factor + 1)
        weights = [kernel((center - t) / factor) / factor for t in taps]
        denominator = math.lcm(*(w.denominator for w in weights))
        total = np.zeros(image.shape[1:], dtype=object)
        for tap, weight in zip(taps, weights, strict=True):
            inside = tap % (2 * length)
            inside = inside if inside < length else 2 * length - 1 - inside
            total = total + int(weight * denominator) * image[inside].astype(object)
        rows.append((2 * total + denominator) // (2 * denominator))
    return np.stack(rows).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_uint8_equals_exact_whole_number_arithmetic(factor):
    """Black and white noise overshoots most, and halves occur at x1/2."""
    rng = np.random.default_rng(factor)
    noise = rng.integers(0, 256, (5 * factor, 7 * factor))
    for image in (noise, (noise > 127) * 255, noise // 64 * 85):
        image = image.astype(np.uint8)
        expected = _exact_axis(_exact_axis(image, factor).T, factor).T
        assert np.array_equal(imresize_uint8(image, 1 / factor), expected)


def test_uint8_layouts_agree():
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 36, 3), dtype=np.uint8)
    batch = imresize_uint8(images, 1 / 4)
    assert batch.shape == (3, 6, 9, 3) and batch.dtype == np.uint8
    assert np.array_equal(batch[1], imresize_uint8(images[1], 1 / 4))
    assert np.array_equal(batch[1, ..., 2], imresize_uint8(images[1, ..., 2], 1 / 4))
    assert np.array_equal(batch[1], imresize_uint8(images[:, ::-1][1][::-1], 1 / 4))
    assert imresize_uint8(images, 1.5).shape == (3, 36, 54, 3)


def _compare(hr: Path, lr: Path, factor: int, border: str) -> int:
    high, low = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (hr, lr))
    assert high is not None and low is not None, (hr, lr)
    if low.ndim == 3 and high.ndim == 2:
        high = np.stack([high] * 3, -1)
    high = high[: high.shape[0] // factor * factor, : high.shape[1] // factor * factor]
    return int((imresize_uint8(high, 1 / factor, border) != low).sum())


@pytest.mark.parametrize("folder", ["Set5", "Set14"])
@pytest.mark.parametrize(("factor", "border"), [(2, "symmetric"), (3, "symmetric"), (4, "symmetric"), (8, "replicate")])
def test_stored_matlab_images(shared_data, folder, factor, border):
    root = shared_data / "sisr_test" / folder
    files = sorted((root / "HR").glob("*.png"))
    assert files
    for hr in files:
        assert _compare(hr, root / "LR_bicubic" / f"X{factor}" / f"{hr.stem}x{factor}.png", factor, border) == 0, hr


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_stored_images_of_older_matlab(shared_data, factor):
    root = shared_data / "golden_outputs" / "RCAN"
    files = sorted((root / "HR" / "Set5" / f"x{factor}").glob("*.png"))
    assert files
    for hr in files:
        lr = root / "LR" / "Set5" / f"x{factor}" / hr.name.replace("_HR_", "_LRBI_")
        assert _compare(hr, lr, factor, "replicate") == 0, hr


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: imresize(torch.zeros(3, 8, 8, dtype=torch.uint8), 0.5), ["floating point", "uint8"]),
        (lambda: imresize(torch.zeros(8), 0.5), ["(8,)"]),
        (lambda: imresize(torch.zeros(3, 8, 8), 0), ["scale", 0]),
        (
            lambda: imresize(torch.zeros(3, 8, 8), 0.5, border="wrap"),
            ["border", "'wrap'", "'symmetric'", "'replicate'"],
        ),
        (lambda: imresize_uint8(np.zeros((8, 8, 3), np.float32), 0.5), ["uint8", "float32"]),
        (lambda: imresize_uint8(np.zeros((0, 8, 3), np.uint8), 0.5), ["(0, 8, 3)"]),
    ],
)
def test_bad_input_is_named(call, names):
    with refuses(*names):
        call()


def test_cuda_equals_cpu(cuda):
    x = torch.rand(2, 3, 40, 36)
    torch.testing.assert_close(imresize(x.to(cuda), 0.25).cpu(), imresize(x, 0.25), atol=2e-6, rtol=0)
