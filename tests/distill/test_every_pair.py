"""Every video teacher teaches every video student, by options alone: one step, and weights restored."""

import pytest
import torch

from kdsr_arch import compat  # noqa: F401  (before basicsr)

# isort: split
from basicsr.archs import build_network

from kdsr_arch.archs.runner import Runner
from kdsr_arch.archs.traits import traits_of
from kdsr_arch.distill.task import DistillTask
from kdsr_arch.registry import register_all

register_all()

TEACHERS = {  # options, smallest LR side in multiples of 4
    'EDVR': ({'num_feat': 8, 'deformable_groups': 2, 'num_extract_block': 1, 'num_reconstruct_block': 1}, 16),
    'EDVRSlim': ({'num_feat': 8, 'num_frame': 3, 'num_hr_feat': 8, 'deformable_groups': 2, 'num_extract_block': 1,
                  'num_reconstruct_block': 1}, 16),
    'DUF': ({'num_layer': 16}, 12),
    'TOFlow': ({}, 12),
    'BasicVSR': ({'num_feat': 8, 'num_block': 1}, 36),
    'BasicVSRPlusPlus': ({'mid_channels': 8, 'num_blocks': 1}, 64),
}
STUDENTS = {
    'VESPCN': {'num_feat': 8, 'num_hr_feat': 8, 'num_block': 1, 'num_flow_feat': 4},
    'VSRNet': {'num_feat': 4, 'num_mid_feat': 4},
    'FastDVDnet': {'channels': [4, 4, 8], 'num_interm': 2, 'num_hr_feat': 4},
}
TERMS = {'sr_feature': {'type': 'MSELoss', 'at': 'f_sr'}, 'lr_feature': {'type': 'MSELoss', 'at': 'f_lr'},
         'output': {'type': 'L1Loss'}}


@pytest.mark.parametrize('student_type', STUDENTS)
@pytest.mark.parametrize('teacher_type', TEACHERS)
def test_one_step(teacher_type, student_type):
    options, side = TEACHERS[teacher_type]
    teacher = build_network({'type': teacher_type, **options})
    student = build_network({'type': student_type, **STUDENTS[student_type]})
    terms = dict(TERMS)
    if student_type == 'VESPCN':
        terms['motion'] = {'type': 'MotionCompensationLoss', 'student': 'motion', 'loss_weight': 0.01}
    window = max(traits_of(net, 4).num_frame for net in (teacher, student))
    lq, gt = torch.rand(1, 1 + window, 3, side, side), torch.rand(1, 2, 3, 4 * side, 4 * side)
    task = DistillTask(student, teacher, {'pixel_opt': {'type': 'CharbonnierLoss'}, 'distill_opt': terms}, scale=4)
    task.dry_run(lq, gt)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    optimizer = torch.optim.SGD([*student.parameters(), *task.train_only_parameters()], lr=1e-3)
    output = task(lq, gt, 0)
    assert output.sr.shape[:2] == (1, 2) and len(output.losses) == len(terms) + 1
    sum(output.losses.values()).backward()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in student.parameters())
    assert any(not torch.equal(p, before[name]) for name, p in student.named_parameters())
    assert all(p.grad is None for p in teacher.parameters())
    _assert_file_restores(student, {'type': student_type, **STUDENTS[student_type]}, lq[..., :12, :12])


def _assert_file_restores(student, opt, lq):
    """The student's own state alone rebuilds it: nothing of the training's extras is in it or missing."""
    copy = build_network(opt)
    copy.load_state_dict(student.state_dict())
    runners = [Runner(net.eval(), traits_of(net, 4)) for net in (student, copy)]
    with torch.inference_mode():
        first, second = (runner.restore(lq[:, :3]) for runner in runners)
    assert torch.equal(first, second)
    assert first.shape == (1, 3, 3, 48, 48)
