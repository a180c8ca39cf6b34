"""The distance of degradation vectors against the authors' number and by hand, through the networks that make them."""

import math

import pytest
import torch

from kdsr_arch.archs.blind_arch import BlindSR, BlindSRTeacher
from kdsr_arch.losses.degradation_loss import DegradationLoss
from tests.helpers.messages import refuses
from tests.helpers.networks import Image, image_batch
from tests.helpers.options import make_task

TERM = {"type": "DegradationLoss", "at": "degradation"}


def test_the_authors_number():
    student = torch.sin(torch.arange(12.0)).view(3, 4)
    teacher = torch.cos(torch.arange(12.0) * 0.7).view(3, 4)
    assert DegradationLoss()(student, teacher).item() == pytest.approx(2.8121092319488525, rel=1e-6)


def test_by_hand():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    wanted = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert DegradationLoss(temperature=1)(student, teacher).item() == pytest.approx(wanted)
    assert DegradationLoss()(teacher, teacher).item() == 0


def test_the_teacher_is_given_both_and_only_the_student_learns():
    data = image_batch(3, 6)
    teacher, student = BlindSRTeacher(2, 4, 1, 1), BlindSR(2, 4, 1, 1)
    task = make_task(student, teacher, {"pixel_opt": {"type": "L1Loss"}, "distill_opt": {"code": TERM}}, data)
    recorded = {}
    for name, net in (("s", student.estimator), ("t", teacher.privileged)):
        net.mlp.register_forward_hook(lambda module, args, output, name=name: recorded.update({name: output}))
    student(data["lq"]), teacher(teacher.traits.given(data["lq"], data["gt"]))
    wanted = DegradationLoss()(recorded["s"], recorded["t"])
    output = task(data, 1)
    torch.testing.assert_close(output.raw["l_code"], wanted)
    output.losses["l_code"].backward()
    assert all(p.grad.abs().sum() > 0 for p in student.estimator.convs.parameters())
    assert all(p.grad is None for p in [*student.restorer.parameters(), *teacher.parameters()])


def test_the_teacher_learns_from_both_as_a_student_of_its_own():
    data, teacher = image_batch(3, 6), BlindSRTeacher(2, 4, 1, 1)
    task = make_task(teacher, None, {"pixel_opt": {"type": "L1Loss"}}, data)
    output = task(data, 1)
    torch.testing.assert_close(output.sr, teacher(teacher.traits.given(data["lq"], data["gt"])))
    output.losses["l_pix"].backward()
    assert all(p.grad is not None for p in teacher.privileged.parameters())


def test_what_is_refused():
    with refuses("DegradationLoss", "temperature"):
        DegradationLoss(temperature=0)
    values = {"distill_opt": {"code": {"type": "DegradationLoss", "at": "f_lr"}}}
    with refuses("code", "degradation", "BlindSRTeacher"):
        make_task(Image(4), Image(4), values, image_batch(3, 6))
    live = {"distill_opt": {"zoom": {"type": "DUKDLoss"}}}
    with refuses("zoom", "network_t that takes LR images"):
        make_task(BlindSR(2, 4, 1, 1), BlindSRTeacher(2, 4, 1, 1), live, image_batch(3, 6))
