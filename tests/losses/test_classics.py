"""FitNet, AT, FSP, SP and RKD against golden values; every loss: gradient to the student, none to the teacher."""

import numpy as np
import pytest
import torch

from kdsr_arch.losses.classic_loss import ATLoss, FitNetLoss, FSPLoss, RKDLoss, SPLoss, attention_map
from kdsr_arch.losses.fakd_loss import FAKDLoss
from kdsr_arch.losses.srkd_loss import SRKDLoss
from kdsr_arch.losses.vid_loss import PISRLoss, VIDLoss
from tests.helpers.messages import refuses


def _pairs(z, case):
    count = sum(k.startswith(f"in/{case}/s") for k in z.files)
    return [[torch.from_numpy(z[f"in/{case}/{side}{i}"]) for i in range(count)] for side in "st"]


def _check_pairs(z, case, loss):
    students, teachers = _pairs(z, case)
    for i, (s, t) in enumerate(zip(students, teachers, strict=True)):
        s.requires_grad_()
        value = loss(s, t)
        np.testing.assert_allclose(value.item(), z[f"out/{case}/loss{i}"], rtol=1e-5)
        value.backward()
        reference = z[f"grad/{case}/s{i}"]
        np.testing.assert_allclose(s.grad, reference, atol=1e-5 * np.abs(reference).max())
        value64 = loss(s.detach().double(), t.double())
        np.testing.assert_allclose(value64.item(), z[f"out64/{case}/loss{i}"], rtol=1e-9)


def test_fitnet(vectors):
    _check_pairs(vectors("fitnet"), "fitnet", FitNetLoss())


def test_fitnet_by_hand():
    student, teacher = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[2.0, 0.0]]]])
    assert FitNetLoss()(student, teacher) == pytest.approx(5.0)
    assert FitNetLoss(criterion="l1")(student, teacher) == pytest.approx(2.0)
    assert FitNetLoss(normalize="teacher_rms")(student, teacher) == pytest.approx(2.5)  # rms^2 of the teacher is 2


@pytest.mark.parametrize("power", [1, 2])
def test_at(vectors, power):
    _check_pairs(vectors("at_repdistiller"), f"p{power}", ATLoss(power, absolute=False, eps=1e-12))


def test_at_map(vectors):
    z = vectors("at_repdistiller")
    for i, s in enumerate(_pairs(z, "p2")[0]):
        reference = z[f"out/p2/map_s{i}"]
        if s[0, 0].numel() == reference.shape[1]:  # others are pooled first
            np.testing.assert_allclose(attention_map(s).flatten(1), reference, rtol=1e-5, atol=2e-6)


def test_sp(vectors):
    _check_pairs(vectors("sp"), "sp", SPLoss())


def test_rkd(vectors):
    z = vectors("rkd")
    w_d, w_a = float(z["hp/w_d"]), float(z["hp/w_a"])
    _check_pairs(z, "rkd", RKDLoss(w_d, w_a))
    _check_pairs(z, "dist_only", RKDLoss(1, 0))
    _check_pairs(z, "angle_only", RKDLoss(0, 1))


def test_fsp(vectors):
    z = vectors("repdistiller_extra")
    students, teachers = _pairs(z, "fsp")
    for s in students:
        s.requires_grad_()
    for i in range(len(students) - 1):
        value = FSPLoss()(students[i : i + 2], teachers[i : i + 2])
        np.testing.assert_allclose(value.item(), z[f"out/fsp/loss{i}"], rtol=1e-5)
    FSPLoss()(students, teachers).backward()
    for i, s in enumerate(students):
        reference = z[f"grad/fsp/s{i}"]
        np.testing.assert_allclose(s.grad, reference, atol=1e-5 * np.abs(reference).max())


def test_fsp_needs_two_layers():
    with refuses("FSPLoss", "two layers"):
        FSPLoss().setup([torch.Size((1, 2, 3, 3))], [torch.Size((1, 2, 3, 3))])


@pytest.mark.parametrize("loss", [SPLoss(), RKDLoss()])
def test_a_batch_of_one_is_zero_not_nan(loss):
    s = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = loss(s, torch.randn(1, 3, 4, 4))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-9) and torch.isfinite(s.grad).all()


@pytest.mark.parametrize("loss", [ATLoss(), SPLoss(), RKDLoss(), FitNetLoss()])
def test_gradcheck(loss):
    s, t = torch.randn(3, 4, 2, 3, dtype=torch.float64), torch.randn(3, 4, 2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, t), s.requires_grad_())


ALL = [
    SRKDLoss(), FAKDLoss(), FAKDLoss("channel"), FAKDLoss("instance"), FitNetLoss(), ATLoss(), FSPLoss(), SPLoss(),
    RKDLoss(), VIDLoss(), PISRLoss(),
]  # fmt: skip


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("how", ["plain", "bf16"])
def test_gradient_reaches_the_student_alone(loss, how):
    loss = type(loss)(loss.affinity) if isinstance(loss, FAKDLoss) else type(loss)()
    students, teachers = ([torch.rand(3, 4, 5, 6) for _ in range(2)] for _ in range(2))
    loss.setup([s.shape for s in students], [t.shape for t in teachers])
    weight = torch.rand(4, 1, 1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "bf16"):
        tapped = [s * weight for s in students]
        value = loss(tapped, teachers) if loss.multi else sum(map(loss, tapped, teachers))
    value.backward()
    assert value.dtype == torch.float32
    assert weight.grad.abs().max() > 0 and torch.isfinite(weight.grad).all()
    assert all(t.grad is None for t in teachers)
