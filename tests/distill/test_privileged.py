"""Networks that are given the ground truth, and terms that compare with the batch instead of a teacher."""

import pytest
import torch

from kdsr_arch.archs.fsrcnn_arch import FSRCNN
from kdsr_arch.archs.pisr_arch import PISRTeacher
from kdsr_arch.ops.color import rgb_to_y
from tests.helpers.options import make_task

DECODER = {"type": "FSRCNN", "d": 8, "s": 4, "m": 1}
PIXEL = {"type": "L1Loss"}


def batch():
    return torch.rand(2, 3, 6, 5), torch.rand(2, 3, 12, 10)


def test_stage_one_is_the_published_loss():
    """L1(SR, HR) + 1e-4 L1(encoded, LR), on luma, from the HR image alone."""
    teacher = PISRTeacher(DECODER, scale=2)
    terms = {"imitation": {"type": "L1Loss", "student": "encoder", "teacher": "lq", "loss_weight": 1e-4}}
    lq, gt = batch()
    task = make_task(teacher, None, {"pixel_opt": PIXEL, "distill_opt": terms}, {"lq": lq, "gt": gt})
    output = task({"lq": lq, "gt": gt}, 1)
    y, y_lq = rgb_to_y(gt), rgb_to_y(lq)
    expected = (teacher(y) - y).abs().mean() + 1e-4 * (teacher.encoder(y) - y_lq).abs().mean()
    torch.testing.assert_close(sum(output.losses.values()), expected)
    sum(output.losses.values()).backward()
    assert all(p.grad is not None for p in teacher.parameters())


def test_stage_two_shows_the_teacher_the_ground_truth():
    teacher, student = PISRTeacher(DECODER, scale=2), FSRCNN(2, d=8, s=4, m=1)
    terms = {"pisr": {"type": "PISRLoss", "at": "expanding", "loss_weight": 1e-6},
             "logits": {"type": "L1Loss"}}  # fmt: skip
    lq, gt = batch()
    task = make_task(student, teacher, {"pixel_opt": PIXEL, "distill_opt": terms}, {"lq": lq, "gt": gt})
    output = task({"lq": lq, "gt": gt}, 1)
    torch.testing.assert_close(output.raw["l_logits"], (student(rgb_to_y(lq)) - teacher(rgb_to_y(gt))).abs().mean())
    sum(output.losses.values()).backward()
    assert sum(p.numel() for p in task.train_only_parameters()) > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert student.expanding[0][0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("at", ["lq", "gt"])
def test_terms_against_the_batch_need_no_teacher(at):
    student = FSRCNN(2, d=8, s=4, m=1)
    terms = {"data": {"type": "L1Loss", "student": "output", "teacher": at}}
    lq, gt = batch()
    task = make_task(student, None, {"pixel_opt": PIXEL, "distill_opt": terms}, {"lq": lq, "gt": gt})
    raw = task({"lq": lq, "gt": gt}, 1).raw
    if at == "gt":
        torch.testing.assert_close(raw["l_data"], raw["l_pix"])
    assert torch.isfinite(raw["l_data"])
