"""Terms on images: L1 of Fourier and wavelet transforms and of differences, by hand and by NumPy."""

import numpy as np
import pytest
import torch

from kdsr_arch.losses.detail_loss import FFTLoss, GradientLoss, WaveletLoss
from tests.helpers.messages import refuses


def test_fft_by_hand():
    student, teacher = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.zeros(1, 1, 2, 2)
    assert FFTLoss()(student, teacher) == pytest.approx((10 + 2 + 4 + 0) / 8)  # 10, -2, -4, 0, all without imaginary


def test_fft_is_numpys():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 6, 8)), rng.random((2, 3, 6, 8))
    spectrum = np.fft.rfft2(a) - np.fft.rfft2(b)
    expected = np.stack([np.abs(spectrum.real), np.abs(spectrum.imag)]).mean()
    assert FFTLoss()(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected)


def test_gradient_by_hand():
    student, teacher = torch.tensor([[[[1.0, 3.0], [2.0, 2.0]]]]), torch.tensor([[[[5.0, 5.0], [5.0, 7.0]]]])
    # differences of the error [[-4, -2], [-3, -5]]: 2 and -2 across, 1 and -3 down
    assert GradientLoss()(student, teacher) == pytest.approx((2 + 2) / 2)


def test_wavelets_by_hand():
    image = torch.tensor([[[[5.0, 1.0], [2.0, 4.0]]]])
    # mean 12 / 2; details (6 - 6) / 2, (7 - 5) / 2, (9 - 3) / 2
    assert WaveletLoss(levels=1)(image, torch.zeros(1, 1, 2, 2)) == pytest.approx(6 + (0 + 1 + 3) / 3)


def test_wavelets_are_products_of_filters():
    """Rows and columns by the orthonormal Haar matrix, level by level."""
    rng = np.random.default_rng(0)
    low, expected = rng.random((2, 3, 8, 16)), 0.0
    image = torch.from_numpy(low.copy())
    for _ in range(2):
        rows, columns = (np.kron(np.eye(n // 2), [[1, 1], [1, -1]]) / np.sqrt(2) for n in low.shape[-2:])
        both = rows @ low @ columns.T
        details = [both[..., 1::2, ::2], both[..., ::2, 1::2], both[..., 1::2, 1::2]]
        low, expected = both[..., ::2, ::2], expected + np.abs(details).mean()
    expected += np.abs(low).mean()
    assert WaveletLoss(levels=2)(image, torch.zeros_like(image)) == pytest.approx(expected)


def test_sides_must_be_halved():
    with refuses("WaveletLoss", "12x16", 16):
        WaveletLoss()(torch.zeros(1, 1, 12, 16), torch.zeros(1, 1, 12, 16))


@pytest.mark.parametrize("loss", [FFTLoss(), GradientLoss(), WaveletLoss(levels=1)])
def test_gradcheck(loss):
    s, t = (torch.rand(1, 2, 4, 6, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: loss(x, t), s.requires_grad_())
