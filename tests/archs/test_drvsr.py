"""DRVSR: parameters, golden outputs, losses and gradients, TensorFlow's padding, the steps of training, taps."""

import pytest
import torch
from torch.nn import functional as F

from kdsr_arch.archs.arch_util import SameConv2d
from kdsr_arch.archs.drvsr_arch import DRVSR
from kdsr_arch.convert.variables import drvsr_from_variables
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.runner import Runner
from kdsr_arch.losses.motion_loss import MotionCompensationLoss
from kdsr_arch.losses.steps_loss import StepsLoss
from kdsr_arch.ops.color import rgb_to_y
from kdsr_arch.ops.warp import forward_splat
from tests.archs.conftest import last_axis
from tests.helpers.messages import refuses

TINY = {"num_feat": 4, "num_flow_feat": 4}


def test_parameter_counts():
    assert count_parameters(DRVSR()) == 1_722_161
    assert count_parameters(DRVSR().motion) == 53_392


def run_official(golden, dtype):
    """The vectors, the network with their weights, and what its modules return for their frames."""
    file = golden("drvsr")
    net = DRVSR(file.hp("num_frame")).to(dtype)
    net.load_state_dict(drvsr_from_variables(file.state()))
    made = {}
    for name in ("motion", "steps", "memory", "motion.coarse.9", "motion.fine.9", "enc3", "up2", "cell"):
        hook = lambda m, i, o, name=name: made.setdefault(name, []).append(o)  # noqa: E731
        net.get_submodule(name).register_forward_hook(hook)
    frames, gt = (rgb_to_y(file.input(name).to(dtype).movedim(-1, -3)) for name in ("x", "gt"))
    return file, net, made, net(frames), frames, gt[:, 0]


def test_golden_outputs(golden):
    file, _, made, sr, frames, _ = run_official(golden, torch.float32)
    assert file.near(last_axis(made["steps"][0]), "sr_steps")
    assert torch.equal(made["steps"][0][:, -1], sr)
    warped, flow, _ = made["motion"][0]
    flow = flow.unflatten(1, (-1, 2))
    assert file.near(last_axis(flow), "uv") and file.near(last_axis(frames), "frames_y")
    splats = [forward_splat(frames[:, i], flow[:, i], file.hp("scale")) for i in range(frames.shape[1])]
    assert file.near(last_axis(torch.stack(splats, 1)), "fw_hr")
    batch, count = frames.shape[:2]
    for name, wanted in (("motion.coarse.9", "c5"), ("motion.fine.9", "s5"), ("enc3", "conv3")):
        assert file.near(last_axis(made[name][0])[::count], f"{wanted}_step0")
    assert file.near(last_axis(made["cell"][0][1]), "lstm_h_step0")
    assert file.near(last_axis(torch.cat(made["cell"][-1], 1)), "lstm_state_last")
    assert file.near(last_axis(made["up2"][1])[:batch], "dec1_step0")  # the earlier steps, in turn, after the last


def test_golden_losses_and_gradients(golden):
    file, net, made, _, _, gt = run_official(golden, torch.float64)  # in float32 a sign at zero may flip
    weights = file.z["hp/lstm_loss_weight"]
    main = StepsLoss(weights[0], weights[-1])(made["steps"][0], gt)
    motion = MotionCompensationLoss(file.hp("flow_tv_weight"), form="drvsr")(made["motion"][0])
    loss = main + file.hp("flow_loss_weight") * motion
    for name, ours in (("loss_mse", main), ("loss_flow", motion), ("loss", loss)):
        assert ours.item() == pytest.approx(file.z[f"out/{name}"].item(), rel=1e-5)
    loss.backward()
    file.assert_gradients(net, drvsr_from_variables)


@pytest.mark.parametrize(
    ("kernel", "stride", "before", "after"), [(5, 1, 2, 2), (3, 1, 1, 1), (5, 2, 1, 2), (3, 2, 0, 1)]
)
def test_padding_is_tensorflows(kernel, stride, before, after):
    conv, x = SameConv2d(2, 3, kernel, stride), torch.rand(1, 2, 8, 12)
    wanted = F.conv2d(F.pad(x, (before, after, before, after)), conv.weight, conv.bias, stride)
    torch.testing.assert_close(conv(x), wanted)
    assert conv(x).shape[-2:] == (8 // stride, 12 // stride)


@pytest.mark.parametrize("options", [{}, {"num_frame": 5, "base": "bicubic"}, {"base": "none"}], ids=str)
def test_shapes_taps_and_gradients(options, taps_seen):
    net = DRVSR(**TINY, **options)
    seen, made = taps_seen(net, net.traits), {}
    for name in ("motion", "steps"):
        net.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: made.update({name: o}))
    out = net(torch.rand(2, net.traits.num_frame, 1, 8, 12))
    assert out.shape == (2, 1, 32, 48) and made["steps"].shape == (2, net.traits.num_frame, 1, 32, 48)
    assert seen == {"f_sr": (2, 4, 32, 48), "f_lr": (2, 16, 8, 12)}
    (
        StepsLoss()(made["steps"], torch.rand(2, 1, 32, 48)) + MotionCompensationLoss(form="drvsr")(made["motion"])
    ).backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None]
    assert not idle and net.motion.fine[8].weight.grad.any()


def test_in_evaluation_the_last_step_alone_is_decoded_and_is_the_same():
    net, frames, made = DRVSR(**TINY), torch.rand(1, 3, 1, 8, 8), []
    net.steps.register_forward_hook(lambda m, i, o: made.append(o))
    with torch.no_grad():
        trained, tested = net.train()(frames), net.eval()(frames)
    torch.testing.assert_close(trained, tested)
    assert [steps.shape[1] for steps in made] == [3, 1]
    torch.testing.assert_close(made[0][:, -1:], made[1])


def test_an_early_step_is_the_result_of_fewer_frames():
    """The estimate after the second of three frames does not know the third."""
    net, frames, made = DRVSR(**TINY), torch.rand(1, 3, 1, 8, 8), []
    net.cell.conv.weight.data.mul_(100)
    net.steps.register_forward_hook(lambda m, i, o: made.append(o))
    other = frames.clone()
    other[:, 2] = torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        net(frames), net(other)
    torch.testing.assert_close(made[0][:, :2], made[1][:, :2])
    assert not torch.allclose(made[0][:, 2], made[1][:, 2], atol=1e-6)


def test_rgb_clips_go_through_the_runner():
    runner = Runner(net := DRVSR(**TINY).eval(), net.traits)
    assert runner.restore(torch.rand(1, 2, 3, 5, 7)).shape == (1, 2, 3, 20, 28)


@pytest.mark.parametrize("num_frame", [4, 1])
def test_another_window_is_refused(num_frame):
    with refuses("DRVSR", "num_frame", num_frame):
        DRVSR(num_frame=num_frame)
