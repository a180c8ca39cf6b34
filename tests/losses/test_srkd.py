"""SRKD's statistics against golden values, gradients, options."""

import numpy as np
import pytest
import torch

from kdsr_arch.losses.srkd_loss import SRKDLoss, channel_statistic
from tests.helpers.messages import refuses


def test_statistics_equal_golden(vectors):
    z = vectors("srkd_stats")
    names = [k[4:] for k in z.files if k.startswith("out/")]
    assert {"max", "min"} <= set(names)
    for name in names:
        statistic, _, power = name.rpartition("_") if name not in ("max", "min") else (name, "", "2")
        for dtype, prefix, tol in ((torch.float32, "out/", 1e-5), (torch.float64, "out64/", 1e-12)):
            if prefix + name not in z.files:
                continue
            got = channel_statistic(torch.from_numpy(z["in/F"]).to(dtype), statistic, int(power))
            np.testing.assert_allclose(got.numpy(), z[prefix + name], rtol=tol, atol=2e-6 if tol > 1e-6 else 1e-12)


@pytest.mark.parametrize("criterion,expected", [("l1", 3.0), ("l2", 9.0)])
def test_default_by_hand(criterion, expected):
    student = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)  # mean 2 -> 4
    teacher = torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1)  # mean 1 -> 1
    assert SRKDLoss(criterion=criterion)(student, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize("statistic", ["mean_pow", "pow_mean", "max", "min"])
@pytest.mark.parametrize("normalization", ["none", "mean", "std"])
def test_gradcheck(statistic, normalization):
    s = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    t = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    loss = SRKDLoss(statistic, 3, "l2", normalization)
    assert torch.autograd.gradcheck(lambda x: loss(x, t), s)


def test_normalization_removes_the_scale():
    f = torch.rand(2, 4, 5, 5)
    assert SRKDLoss(normalization="mean")(7 * f, f).item() == pytest.approx(0, abs=1e-9)
    assert SRKDLoss()(7 * f, f).item() > 1


@pytest.mark.parametrize("options", [{"power": 0}, {"power": 1.5}, {"statistic": "mean"}, {"criterion": "l3"}])
def test_bad_options(options):
    with refuses("SRKDLoss", *options, *options.values()):
        SRKDLoss(**options)


def test_a_sequence_of_tokens_is_refused():
    with refuses("SRKDLoss", "(2, 16, 8)"):
        SRKDLoss()(torch.zeros(2, 16, 8), torch.zeros(2, 16, 8))
