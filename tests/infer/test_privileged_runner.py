"""A privileged network is run on the ground truth: same size out, chroma kept."""

import torch

from kdsr_arch.archs.blind_arch import BlindSRTeacher
from kdsr_arch.archs.pisr_arch import PISRTeacher
from kdsr_arch.evaluate.evaluator import restored_frames
from kdsr_arch.evaluate.items import items_of
from kdsr_arch.infer.cost import measure_cost
from kdsr_arch.infer.open import load_weights
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.ops.color import rgb_to_y, rgb_to_ycbcr
from tests.helpers.messages import refuses

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


def test_a_network_that_is_given_both_is_scored_on_pairs():
    net = BlindSRTeacher(2, 4, 1, 1).eval()
    lq, gt = torch.rand(3, 7, 5), torch.rand(3, 14, 10)
    restorer = Restorer(Runner(net, net.traits), torch.device("cpu"), "no")
    (item,) = items_of({"lq": lq, "gt": gt, "key": "a"}, "image")
    (image,) = restored_frames(restorer, item, [0], "replicate")
    with torch.no_grad():
        torch.testing.assert_close(image, net(net.traits.given(lq[None], gt[None]))[0])
    (item,) = items_of({"lq": lq, "key": "a"}, "image")
    with refuses("a", "ground truth", "BlindSRTeacher"):
        next(restored_frames(restorer, item, [0], "replicate"))
    with refuses("BlindSRTeacher", "(1, 3, 7, 5)", "15"):
        restorer.image(lq)
    assert measure_cost(net, torch.device("cpu"), size=(8, 6), runs=1, warm_up=0).multiply_adds > 0
