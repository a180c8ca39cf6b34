"""VSRNet: parameters, golden outputs, its optical flow, options, taps."""

import pytest
import torch
from torch import nn

from kdsr_arch.archs.vsrnet_arch import FlowCompensation, VSRNet
from kdsr_arch.convert.names import vsrnet_from_usstdqq
from kdsr_arch.infer.cost import count_parameters
from tests.helpers.messages import refuses


def test_parameter_counts():
    assert count_parameters(VSRNet()) == 272_577
    assert count_parameters(VSRNet(shared=False)) == 283_073
    assert set(VSRNet().state_dict()) == set(dict(VSRNet(flow="none").named_parameters()))


def test_golden_output(golden):
    file = golden("vsrnet")
    net = VSRNet(flow="none")
    net.load_state_dict(vsrnet_from_usstdqq(file.state("vsrnet.")))
    assert file.near(net(file.input("frames").unsqueeze(2)), "sr")


def test_a_bicubic_base_adds_the_enlarged_center_frame():
    torch.manual_seed(0)
    plain = VSRNet(num_feat=4, num_mid_feat=4, flow="none")
    based = VSRNet(num_feat=4, num_mid_feat=4, flow="none", base="bicubic")
    based.load_state_dict(plain.state_dict())
    x = torch.rand(2, 5, 1, 16, 20)
    assert torch.equal(based(x), plain(x) + x[:, 2])


@pytest.mark.parametrize(
    "options",
    [
        {"num_frame": 3},
        {"num_frame": 7, "shared": False},
        {"color": "rgb"},
        {"num_frame": 3, "fusion": "early"},
        {"flow": "none"},
    ],
    ids=str,
)
def test_options_shapes_taps_and_gradients(options, taps_seen):
    net = VSRNet(num_feat=8, num_mid_feat=4, **options)
    channels = 1 if net.traits.color == "y" else 3
    seen = taps_seen(net, net.traits)
    out = net(torch.rand(2, net.traits.num_frame, channels, 16, 20))
    assert out.shape == (2, channels, 16, 20)
    assert seen["f_sr"] == (2, 4, 16, 20) and seen["f_lr"][-2:] == (16, 20)
    out.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


def shifted_clip(step):
    coarse = torch.rand(1, 1, 14, 14, generator=torch.Generator().manual_seed(3))
    texture = nn.functional.interpolate(coarse, size=(112, 112), mode="bicubic", align_corners=False).clamp(0, 1)
    return torch.stack([texture[..., 24:88, 24 + step * i : 88 + step * i] for i in (-1, 0, 1)], 1)


def test_dis_flow_undoes_a_shift():
    clip = shifted_clip(3)
    module = FlowCompensation("dis")
    flow = module.flow(clip[:, 1], clip[:, 2])
    inner = flow[..., 16:-16, 16:-16]
    assert (inner[:, 0] + 3).abs().mean() < 0.3 and inner[:, 1].abs().mean() < 0.3
    warped = module(clip)
    before = (clip[:, 2] - clip[:, 1])[..., 16:-16, 16:-16].abs().mean()
    after = (warped[:, 2] - clip[:, 1])[..., 16:-16, 16:-16].abs().mean()
    assert after < 0.2 * before
    assert torch.equal(warped[:, 1], clip[:, 1])


def test_no_flow_leaves_frames_alone():
    clip = shifted_clip(2)
    assert FlowCompensation("none")(clip) is clip


def test_spynet_loads_its_weights_and_stays_out_of_the_file(tmp_path):
    from kdsr_arch.archs.vsrnet_arch import SpyNet

    torch.save({"params": SpyNet().state_dict()}, tmp_path / "spynet.pth")
    net = VSRNet(num_frame=3, num_feat=4, num_mid_feat=4, flow="spynet", spynet_path=str(tmp_path / "spynet.pth"))
    assert not any("spynet" in name for name in net.state_dict())
    assert net(torch.rand(1, 3, 1, 64, 64)).shape == (1, 1, 64, 64)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"flow": "spynet"}, ["spynet", "spynet_path"]),
        ({"flow": "dsi"}, ["flow", "'dsi'", "'dis'"]),
        ({"num_frame": 2}, ["num_frame", "2", "3, 5, 7"]),
        ({"fusion": "x"}, ["fusion", "'x'", "early", "late"]),
        ({"base": "bilinear"}, ["base", "'bilinear'", "bicubic", "none"]),
        ({"flow": "spynet", "spynet_path": "/nowhere.pth"}, ["spynet_path", "/nowhere.pth"]),
    ],
)
def test_bad_options_are_refused(options, names):
    with refuses(*names):
        VSRNet(**options)
