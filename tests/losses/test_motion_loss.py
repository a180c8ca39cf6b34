"""VESPCN's motion term: values by hand, gradients, its place in the student."""

import math

import pytest
import torch

from kdsr_arch.archs.vespcn_arch import VESPCN
from kdsr_arch.losses.motion_loss import MotionCompensationLoss
from tests.helpers.messages import refuses


def test_warping_error_is_summed_over_neighbors():
    reference = torch.zeros(2, 3, 4, 5)
    warped = torch.cat([torch.full((2, 3, 4, 5), 0.5), torch.full((2, 3, 4, 5), 0.1)], 1)
    loss = MotionCompensationLoss(smoothness=0)
    assert loss((warped, torch.zeros(2, 4, 4, 5), reference)).item() == pytest.approx(0.25 + 0.01)


def test_huber_of_a_ramp_by_hand():
    ramp = torch.zeros(1, 2, 4, 4)
    ramp[:, 0] = 3 * torch.arange(4.0)  # d/dx of the first component is 3
    ramp[:, 1] = 4 * torch.arange(4.0).view(4, 1)  # d/dy of the second is 4
    still = torch.rand(1, 3, 4, 4)
    assert MotionCompensationLoss(smoothness=1)((still, ramp, still)).item() == pytest.approx(math.sqrt(25.01))
    field = MotionCompensationLoss(smoothness=0.5, epsilon=1, over="field")((still, ramp, still))
    assert field.item() == pytest.approx(0.5 * math.sqrt(1 + 9 * 25))  # 3 x 3 interior differences


def test_two_equal_neighbors_count_twice():
    warped, flow, reference = torch.rand(2, 3, 6, 6), torch.rand(2, 2, 6, 6), torch.rand(2, 3, 6, 6)
    loss = MotionCompensationLoss()
    once = loss((warped, flow, reference))
    twice = loss((warped.repeat(1, 2, 1, 1), flow.repeat(1, 2, 1, 1), reference))
    torch.testing.assert_close(twice, 2 * once)


def test_gradient_reaches_the_motion_network_only():
    net = VESPCN(num_frame=5, num_feat=8, num_hr_feat=4, num_block=1, num_flow_feat=6)
    recorded = []
    net.motion.register_forward_hook(lambda m, i, o: recorded.append(o))
    net(torch.rand(2, 5, 3, 12, 12))
    MotionCompensationLoss()(recorded[0]).backward()
    with_gradient = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient == {"motion"}


def test_a_flat_flow_has_a_finite_gradient():
    flow = torch.zeros(1, 2, 4, 4, requires_grad=True)
    image = torch.rand(1, 3, 4, 4)
    MotionCompensationLoss(smoothness=1)((image, flow, image)).backward()
    assert torch.isfinite(flow.grad).all()


def test_another_tap_is_refused():
    with refuses("MotionCompensationLoss", "motion: true"):
        MotionCompensationLoss()(torch.rand(1, 3, 4, 4))
    with refuses("MotionCompensationLoss", "over", "'image'", "pixel", "field"):
        MotionCompensationLoss(over="image")


def test_drvsrs_form_by_hand():
    frames = torch.zeros(2, 3, 4, 4)
    warped = frames + torch.tensor([0.3, 0.0, -0.6]).view(1, 3, 1, 1)
    flow = torch.zeros(2, 6, 4, 4)
    flow[:, 0] = 2 * torch.arange(4.0)  # 12 differences of 2 in each of 2 windows, of 192 elements
    loss = MotionCompensationLoss(smoothness=0.5, form="drvsr")((warped, flow, frames))
    assert loss.item() == pytest.approx(0.3 + 0.5 * 2 * 12 * 2 / 192)


def test_aligned_pictures_without_a_flow():
    pair = torch.full((2, 6, 4, 4), 0.5), torch.zeros(2, 3, 4, 4)
    assert MotionCompensationLoss(smoothness=0)(pair).item() == pytest.approx(2 * 0.25)
    assert MotionCompensationLoss(smoothness=0, form="drvsr")(pair).item() == pytest.approx(0.5)
    with refuses("MotionCompensationLoss", "smoothness: 0"):
        MotionCompensationLoss()(pair)
