"""A privileged network is run on the ground truth: same size out, chroma kept."""

import torch

from kdsr_arch.archs.pisr_arch import PISRTeacher
from kdsr_arch.infer.open import load_weights
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.ops.color import rgb_to_y, rgb_to_ycbcr

DECODER = {"type": "FSRCNN", "d": 8, "s": 4, "m": 1}


def test_restore_keeps_the_size_and_the_chroma():
    net = PISRTeacher(DECODER, scale=3).eval()
    gt = torch.rand(1, 3, 12, 15) * 0.5 + 0.25
    out = Runner(net, traits_of(net)).restore(gt)
    assert out.shape == gt.shape
    torch.testing.assert_close(rgb_to_ycbcr(out)[:, 1:], rgb_to_ycbcr(gt)[:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(rgb_to_y(out), net(rgb_to_y(gt)).detach(), atol=1e-5, rtol=0)


def test_the_student_starts_as_the_decoder(tmp_path):
    """`param_key_g: decoder` on the teacher's checkpoint: the averaged weights where there are some."""
    teacher, averaged = PISRTeacher(DECODER, scale=2), PISRTeacher(DECODER, scale=2)
    student = PISRTeacher(DECODER, scale=2).decoder
    torch.save({"params": teacher.state_dict(), "params_ema": averaged.state_dict()}, tmp_path / "t.pth")
    load_weights(student, tmp_path / "t.pth", "decoder")
    x = torch.rand(1, 1, 5, 5)
    torch.testing.assert_close(student(x), averaged.decoder(x))
