"""VESPCN: parameters, golden outputs of the widely used version, identity at zero flow, options, taps."""

import pytest
import torch
from torch import nn

from kdsr_arch.archs import vespcn_arch
from kdsr_arch.archs.vespcn_arch import VESPCN, MotionCompensation
from kdsr_arch.convert.names import vespcn_from_loseal
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.runner import Runner
from kdsr_arch.ops.warp import backward_warp
from tests.helpers.messages import refuses


def test_parameter_counts():
    assert count_parameters(VESPCN()) == 878_787
    assert count_parameters(MotionCompensation()) == 59_392
    assert count_parameters(VESPCN(motion=False)) == 878_787 - 59_392


def short_warp(x, flow, border="zeros"):
    """The widely used version's warp, whose grid steps by w instead of w - 1."""
    height, width = x.shape[-2:]
    factor = torch.tensor([(width - 1) / width, (height - 1) / height]).view(1, 2, 1, 1)
    return backward_warp(x, flow * factor.to(flow), border=border)


def test_golden_output_motion_and_flow(golden, monkeypatch):
    file = golden("vespcn_loseal")
    frames, channel = file.input("frames"), file.hp("channel")
    net = VESPCN(
        file.hp("scale"),
        file.hp("depth"),
        max_flow=file.hp("gain"),
        coarse_gain=1,
        color="rgb" if channel == 3 else "y",
    ).eval()
    net.load_state_dict(vespcn_from_loseal(file.state()))
    monkeypatch.setattr(vespcn_arch, "backward_warp", short_warp)
    with torch.no_grad():
        warped, flow, reference = net.motion(frames)
        assert file.near(net(frames), "ac1_sr")
    for i, (image, motion) in enumerate(zip(warped.split(channel, 1), flow.split(2, 1), strict=True)):
        assert file.near(image, f"ac1_warp{i}")
        assert file.near(motion, f"ac1_flow{i}")
    assert torch.equal(reference, frames[:, frames.shape[1] // 2])


@pytest.mark.parametrize("size", [(8, 12), (7, 13), (5, 6)])
def test_new_network_has_zero_flow_which_is_the_identity(size):
    frames = torch.rand(2, 5, 3, *size)
    warped, flow, _ = MotionCompensation()(frames)
    assert not flow.any()
    torch.testing.assert_close(warped.view(2, 4, 3, *size), frames[:, [0, 1, 3, 4]], atol=2e-6, rtol=0)


def test_flow_is_in_pixels_and_moves_the_neighbor(monkeypatch):
    module = MotionCompensation(num_channel=1)
    frames = torch.rand(1, 3, 1, 8, 8)
    one_right = torch.tensor([1.0, 0]).view(1, 2, 1, 1).expand(2, 2, 8, 8)
    monkeypatch.setattr(module, "flow", lambda target, neighbor: one_right)
    warped, _, _ = module(frames)
    torch.testing.assert_close(warped[:, :, :, :-1], frames[:, [0, 2], 0, :, 1:], atol=2e-6, rtol=0)


@pytest.mark.slow
def test_motion_learns_a_shift():
    torch.manual_seed(1)
    texture = nn.functional.interpolate(torch.rand(1, 1, 10, 10), size=(40, 40), mode="bicubic", align_corners=False)
    frames = torch.stack([texture[..., 4:28, 4 + i : 28 + i] for i in (-1, 0, 1)], 1)
    module = MotionCompensation(num_channel=1, max_flow=4)
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    errors = []
    for _ in range(120):
        warped, _, target = module(frames)
        error = (warped - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.2 * errors[0]


OPTIONS = [
    {},
    {"num_frame": 5},
    {"fusion": "slow"},
    {"num_frame": 5, "fusion": "slow", "color": "y"},
    {"motion": False},
    {"base": "bicubic", "scale": 3},
    {"base": "bilinear", "scale": 2, "block": "plain"},
    {"num_hr_feat": 0, "block": "plain"},
    {"num_feat": 8, "num_hr_feat": 4, "num_flow_feat": 6},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_shapes_taps_and_gradients(options, taps_seen):
    net = VESPCN(**{"num_feat": 8, "num_hr_feat": 6, "num_block": 1, **options})
    traits = net.traits
    channels = 1 if traits.color == "y" else 3
    x = torch.rand(2, traits.num_frame, channels, 9, 10)
    seen = taps_seen(net, traits)
    out = net(x)
    assert out.shape == (2, channels, 9 * traits.scale, 10 * traits.scale)
    assert seen["f_lr"][-2:] == (9, 10)
    if options.get("num_hr_feat") == 0:
        assert "f_sr" not in seen
    else:
        assert seen["f_sr"][-2:] == out.shape[-2:] and seen["f_sr"][1] == net.conv_last.in_channels
    out.square().mean().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None]
    assert not idle


def test_slow_fusion_merges_frames_pairwise():
    net = VESPCN(num_frame=5, fusion="slow", num_feat=8)
    assert [conv.in_channels for conv in net.fusion.convs] == [6, 16, 16, 16]


def test_base_makes_a_new_network_start_near_bicubic():
    from kdsr_arch.ops.bicubic import upsample_bicubic

    x = torch.rand(1, 3, 3, 8, 8)
    bicubic = upsample_bicubic(x[:, 1], 4)
    assert (VESPCN(base="bicubic")(x) - bicubic).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"num_frame": 4}, ["num_frame", "4", "3, 5, 7"]),
        ({"color": "rbg"}, ["color", "'rbg'", "'rgb'"]),
        ({"fusion": "lsow"}, ["fusion", "'lsow'", "'slow'"]),
        ({"base": "cubic"}, ["base", "'cubic'", "'bicubic'"]),
        ({"block": "dense"}, ["block", "'dense'", "residual", "plain"]),
    ],
)
def test_bad_options_are_refused(options, names):
    with refuses(*names):
        VESPCN(**options)


@pytest.mark.parametrize(("scale", "size"), [(2, (6, 9)), (3, (3, 5)), (4, (7, 8)), (4, (2, 6))])
def test_inference_form_equals_the_network(scale, size):
    net = VESPCN(scale, num_feat=8, num_hr_feat=12, num_block=1).eval()
    fast, x = net.for_inference(), torch.rand(2, 3, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), atol=1e-5, rtol=0)
    assert fast.fused is not None and net.fused is None
    assert set(net.state_dict()) == set(VESPCN(scale, num_feat=8, num_hr_feat=12, num_block=1).state_dict())


def test_runner_restores_with_the_inference_form_of_the_present_weights():
    net = VESPCN(num_feat=8, num_hr_feat=4, num_block=1, num_flow_feat=4).eval()
    runner, clip = Runner(net, net.traits), torch.rand(1, 4, 3, 6, 7)
    fired = []
    net.upsampler.register_forward_hook(lambda m, i, o: fired.append(1)).remove()
    first = runner.restore(clip)
    torch.testing.assert_close(first[:, 1:-1], runner.forward(clip).detach(), atol=1e-5, rtol=0)
    with torch.no_grad():
        net.conv_last.weight.add_(0.1)
    torch.testing.assert_close(runner.restore(clip)[:, 1:-1], runner.forward(clip).detach(), atol=1e-5, rtol=0)
    net.upsampler.register_forward_hook(lambda m, i, o: fired.append(1))
    runner.restore(clip)
    assert len(fired) == 4
