"""CrossKD-SR: the teacher's later layers on the student's features, against the layers called by hand."""

import pytest
import torch
from torch.nn import functional as F

import kdsr_arch.losses.crosskd_loss  # noqa: F401
from tests.helpers.messages import refuses
from tests.helpers.networks import Image, Window, image_batch
from tests.helpers.options import make_task

CROSS = {"type": "CrossKDLoss", "at": "f_lr"}


def make(data, student=4, **term):
    torch.manual_seed(1)
    return make_task(Image(student), Image(6), {"pixel_opt": {"type": "L1Loss"}, "distill_opt": {"cross": term}}, data)


@pytest.mark.parametrize("target", ["gt", "teacher"])
@pytest.mark.parametrize("width", [4, 6])
def test_by_hand(target, width):
    data = image_batch()
    task = make(data, width, **CROSS, target=target)
    student, teacher = task.student, task._teacher.net
    feature = task.terms["cross"].adapters[0](student.head(data["lq"]), size=(8, 8)) if width == 4 else None
    if feature is None:
        feature = student.head(data["lq"])
    made = teacher.last(F.relu(teacher.up(feature)))
    wanted = (made - (data["gt"] if target == "gt" else teacher(data["lq"]))).abs().mean()
    output = task(data, 1)
    torch.testing.assert_close(output.raw["l_cross"], wanted)
    wanted.backward()
    expected = student.head.weight.grad.clone()
    student.zero_grad()
    task(data, 1).losses["l_cross"].backward()
    torch.testing.assert_close(student.head.weight.grad, expected)
    assert student.last.weight.grad is None and all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in task.train_only_parameters())


def test_the_teacher_is_left_as_it_was():
    data = image_batch()
    task = make(data, **CROSS)
    task(data, 1)
    assert not any(module._forward_hooks for module in task._teacher.net.modules())
    x = data["lq"]
    teacher = task._teacher.net
    assert torch.equal(teacher(x), teacher.last(F.relu(teacher.up(teacher.head(x)))))


def test_what_is_refused():
    with refuses("cross", "a layer inside the teacher"):
        make(image_batch(), type="CrossKDLoss")
    clips = {"lq": torch.rand(1, 5, 3, 8, 8), "gt": torch.rand(1, 3, 3, 16, 16)}
    with refuses("cross", "networks of images"):
        make_task(Window(4, 3), Window(6, 3), {"distill_opt": {"cross": CROSS}}, clips)
