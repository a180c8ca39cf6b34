"""The networks of blind SR against the authors' own: values of weights and images that both were given."""

import pytest
import torch
from torch.nn import functional as F

from kdsr_arch.archs import blind_arch
from kdsr_arch.archs.blind_arch import BlindSR, BlindSRTeacher
from kdsr_arch.infer.open import load_weights

LQ = torch.sin(torch.arange(180.0) * 0.11).view(2, 3, 5, 6) / 2 + 0.5
GT = torch.sin(torch.arange(720.0) * 0.07).view(2, 3, 10, 12) / 2 + 0.5


def filled(net):
    """The network with weights by a formula, in the order of their names."""
    with torch.no_grad():
        for i, (_, p) in enumerate(sorted((n, p) for n, p in net.named_parameters() if "mean" not in n)):
            p.copy_((0.2 * torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 0.37 + i)).view(p.shape))
    return net


@pytest.mark.parametrize(
    ("kind", "mean", "some"),
    [
        (BlindSR, 0.27217352390289307, [0.3666715621948242, 0.3069767355918884, -0.029711544513702393]),
        (BlindSRTeacher, 0.2721732556819916, [0.3666960597038269, 0.30697113275527954, -0.029740512371063232]),
    ],
)
def test_against_the_authors_own(kind, mean, some):
    net = filled(kind(2, 8, 2, 1))
    with torch.no_grad():
        image = net(net.traits.given(LQ, GT))
    assert image.abs().mean().item() == pytest.approx(mean, rel=1e-5)
    assert image.flatten()[[0, 100, 500]].tolist() == pytest.approx(some, abs=1e-6)


def test_each_image_is_restored_by_what_is_known_of_it_alone():
    net = filled(BlindSR(2, 8, 2, 1))
    with torch.no_grad():
        torch.testing.assert_close(net(LQ)[1:], net(LQ[1:]))


def test_the_form_for_export_is_the_same(monkeypatch):
    net = filled(BlindSR(2, 8, 2, 1))
    with torch.no_grad():
        wanted = net(LQ)
        monkeypatch.setattr(blind_arch, "exporting", lambda: True)
        torch.testing.assert_close(net(LQ), wanted)


def test_what_the_teacher_is_given():
    given = BlindSRTeacher(2, 8, 2, 1).traits.given(LQ, GT)
    assert given.shape == (2, 15, 5, 6)
    assert torch.equal(given[:, :3], LQ) and torch.equal(F.pixel_shuffle(given[:, 3:], 2), GT)


def test_the_student_starts_with_the_teachers_restorer(tmp_path):
    teacher, student = filled(BlindSRTeacher(2, 8, 2, 1)), BlindSR(2, 8, 2, 1)
    own = {name: p.clone() for name, p in student.estimator.named_parameters()}
    torch.save({"params": teacher.state_dict()}, tmp_path / "t.pth")
    load_weights(student, tmp_path / "t.pth", "params", strict=False)
    for mine, theirs in zip(student.restorer.parameters(), teacher.restorer.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert all(torch.equal(p, own[name]) for name, p in student.estimator.named_parameters())
