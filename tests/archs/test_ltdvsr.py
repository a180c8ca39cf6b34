"""The rebuild of Liu's temporal adaptive network: parameters, golden outputs, losses and gradients, taps, any size."""

import pytest
import torch

from kdsr_arch.archs.ltdvsr_arch import LTDVSRRebuild
from kdsr_arch.convert.variables import ltdvsr_from_variables
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.losses.motion_loss import MotionCompensationLoss
from kdsr_arch.ops.color import rgb_to_y
from kdsr_arch.ops.legacy_resize import resize_legacy
from tests.archs.conftest import last_axis

TINY = {"num_feat": 6, "num_flow_feat": 4}


def test_parameter_counts():
    assert count_parameters(LTDVSRRebuild()) == 370_677
    assert count_parameters(LTDVSRRebuild().motion) == 88_770


def test_golden_outputs_losses_and_gradients(golden):
    file, net, made = golden("ltdvsr"), LTDVSRRebuild(), {}
    net.load_state_dict(ltdvsr_from_variables(file.state()))
    for name in ("motion", "upsampler", "modulation"):
        hook = lambda m, i, o, name=name: made.setdefault(name, []).append(o)  # noqa: E731
        net.get_submodule(name).register_forward_hook(hook)
    frames, gt = (rgb_to_y(file.input(name).movedim(-1, -3)) for name in ("x", "gt"))
    sr = net(frames)
    assert file.near(last_axis(sr).unsqueeze(1), "sr")
    assert file.near(last_axis(made["motion"][0][1].unflatten(1, (-1, 2))), "uv")
    assert all(file.near(last_axis(estimate), f"est{i}") for i, estimate in enumerate(made["upsampler"]))
    assert file.near(last_axis(made["modulation"][0].softmax(1)), "weights")
    center, (height, width) = frames[:, frames.shape[1] // 2], sr.shape[-2:]
    assert file.near(last_axis(resize_legacy(center, height, width, "bilinear")), "bilinear_ref")
    main = ((sr - gt[:, 0]).square() + file.hp("charbonnier_eps2")).sqrt().mean()
    motion = MotionCompensationLoss(file.hp("flow_tv_weight"), form="drvsr")(made["motion"][0])
    loss = main + file.hp("flow_loss_weight") * motion
    for name, ours in (("mse", main), ("loss_flow", motion), ("loss", loss)):
        assert ours.item() == pytest.approx(file.z[f"out/{name}"].item(), rel=1e-5)
    loss.backward()
    file.assert_gradients(net, ltdvsr_from_variables)


@pytest.mark.parametrize("size", [(8, 8), (7, 13), (3, 5)])
def test_any_size_taps_and_gradients(size, taps_seen):
    net, (height, width) = LTDVSRRebuild(**TINY), size
    seen, made = taps_seen(net, net.traits), []
    net.motion.register_forward_hook(lambda m, i, o: made.append(o))
    out = net(torch.rand(2, 5, 1, height, width))
    assert out.shape == (2, 1, 4 * height, 4 * width)
    assert seen == {"f_lr": (2, 6, height, width)}
    (out.square().mean() + MotionCompensationLoss(form="drvsr")(made[0])).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_flow_is_at_most_a_pixel():
    net = LTDVSRRebuild(**TINY)
    for parameter in net.motion.parameters():
        parameter.data.mul_(100)
    assert net.motion(torch.rand(1, 5, 1, 8, 8))[1].abs().max() <= 1
