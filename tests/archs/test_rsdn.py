"""RSDN: parameters, golden outputs and states, the filter by its definition, structure and detail, taps, gradients."""

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from kdsr_arch.archs.rsdn_arch import RSDN
from kdsr_arch.convert.names import RSDN_OFFICIAL, rename
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.runner import Runner
from kdsr_arch.losses.structure_detail_loss import StructureDetailLoss
from kdsr_arch.ops.structure import structure_of
from tests.helpers.messages import refuses

TINY = {"num_feat": 6, "num_block": 2}


def test_parameter_count():
    assert count_parameters(RSDN()) == 6_180_236


def test_it_starts_as_the_authors():
    conv = RSDN(num_block=1).conv_hd
    assert conv.weight.std().item() == pytest.approx(0.1 * (2 / (9 * 128)) ** 0.5, rel=0.01)
    assert not conv.bias.any()


@pytest.fixture
def official(golden):
    """The vectors, and the network with their weights."""
    file = golden("rsdn")
    net = RSDN(file.hp("nf"), file.hp("num_blocks")).eval().requires_grad_(False)
    net.load_state_dict(rename(file.state(), RSDN_OFFICIAL))
    return file, net


def test_golden_outputs(official):
    file, net = official
    seen = {}
    for name in ("structure", "detail"):
        net.get_submodule(name).register_forward_hook(lambda m, i, made, name=name: seen.update({name: made}))
    assert file.near(net(file.input("lr")), "sr")
    assert file.near(seen["structure"], "sr_s") and file.near(seen["detail"], "sr_d")
    assert file.near(structure_of(file.input("lr")), "S")
    assert file.near(file.input("lr") - structure_of(file.input("lr")), "D")


def test_golden_states(official):
    file, net = official
    memories, blocks = [], []
    net.memory.register_forward_hook(lambda m, i, made: memories.append(made))
    net.blocks[-1].register_forward_hook(lambda m, i, made: blocks.append(made))
    net(file.input("lr"))
    wanted = torch.from_numpy(file.z["out/hd"] + file.z["out/hs"])
    torch.testing.assert_close(torch.stack(memories, 1), wanted, atol=2e-5 * wanted.abs().max().item(), rtol=0)
    assert file.near(blocks[-1][0], "sd9_hd_last") and file.near(blocks[-1][1], "sd9_hs_last")
    gate = torch.from_numpy(file.z["out/gate_step1"])
    torch.testing.assert_close(net.adapt(file.input("lr")[:, 1], wanted[:, 0]), gate * wanted[:, 0])


def test_golden_degradation(golden):
    file = golden("rsdn")
    scale, sigma = file.hp("scale"), file.hp("bd_sigma")
    blurred = gaussian_filter(file.input("hr").numpy(), sigma, mode="mirror", axes=(-2, -1))
    assert file.near(torch.from_numpy(blurred[..., ::scale, ::scale].copy()), "bd_lr")


def test_the_memory_is_filtered_by_the_frames_own_filters():
    net = RSDN(**TINY)
    frame, memory = torch.rand(2, 3, 4, 6), torch.randn(2, 6, 4, 6)
    filters = F.leaky_relu(net.forget(frame), 0.1)
    near = F.unfold(memory, 3, padding=1).unflatten(1, (6, 9)).unflatten(3, (4, 6))
    wanted = memory * (near * filters.unsqueeze(1)).sum(2).sigmoid()
    torch.testing.assert_close(net.adapt(frame, memory), wanted)


def test_a_frame_sees_those_before_it_only_but_for_the_first():
    net, clip = RSDN(**TINY).eval(), torch.rand(1, 4, 3, 6, 8)
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    with torch.no_grad():
        whole, cut = net(clip), net(clip[:, :3])
        torch.testing.assert_close(whole[:, :3], cut)
        changed = clip.clone()
        changed[:, 1] = 0
        assert not torch.allclose(net(changed)[:, 0], whole[:, 0], atol=1e-6)


def test_structure_and_detail_add_up_to_the_image():
    x = torch.rand(2, 3, 6, 8)
    half = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(structure_of(x), F.interpolate(half, (6, 8), mode="bilinear", align_corners=False))
    flat = torch.full((1, 2, 3, 4, 4), 0.3)
    torch.testing.assert_close(structure_of(flat), flat)
    with refuses("even", "5x4"):
        structure_of(torch.rand(1, 3, 5, 4))


@pytest.mark.parametrize("base", ["none", "bicubic"])
def test_shapes_taps_and_gradients(base, taps_seen):
    net = RSDN(**TINY, base=base)
    seen = taps_seen(net, net.traits)
    made = {}
    for name in ("structure", "detail"):
        net.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: made.update({name: o}))
    out = net(torch.rand(2, 3, 3, 6, 8))
    assert out.shape == made["structure"].shape == made["detail"].shape == (2, 3, 3, 24, 32)
    assert seen == {"f_lr": (2, 6, 6, 8)}
    images = [made[name].flatten(0, 1) for name in ("structure", "detail")]
    loss = out.square().mean() + StructureDetailLoss()(images, [torch.rand(6, 3, 24, 32)] * 2)
    loss.backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_the_runner_restores_any_size_and_refuses_a_single_frame():
    runner = Runner(net := RSDN(**TINY).eval(), net.traits)
    assert runner.restore(torch.rand(1, 2, 3, 5, 7)).shape == (1, 2, 3, 20, 28)
    with refuses("RSDN", 2, 1):
        runner.restore(torch.rand(1, 1, 3, 6, 6))
