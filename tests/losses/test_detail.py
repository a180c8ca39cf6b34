"""Terms on images: L1 of the Fourier transform and of differences between neighbors, by hand and by NumPy."""

import numpy as np
import pytest
import torch

from kdsr_arch.losses.detail_loss import FFTLoss, GradientLoss


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


@pytest.mark.parametrize("loss", [FFTLoss(), GradientLoss()])
def test_gradcheck(loss):
    s, t = (torch.rand(1, 2, 4, 5, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: loss(x, t), s.requires_grad_())
