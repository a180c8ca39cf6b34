"""PFNL: parameters, golden outputs and gradients, the non-local block by its definition and within its memory, taps."""

import pytest
import torch

from kdsr_arch.archs import pfnl_arch
from kdsr_arch.archs.pfnl_arch import PFNL, NonLocal
from kdsr_arch.convert.variables import pfnl_from_variables
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.ops.exporting import export_form
from tests.archs.conftest import last_axis
from tests.helpers.messages import refuses

TINY = {"num_frame": 3, "num_feat": 6, "num_block": 2, "num_hr_feat": 4}


def test_parameter_counts():
    assert count_parameters(PFNL()) == 3_003_156
    assert count_parameters(PFNL().non_local) == 14_280
    assert count_parameters(PFNL().blocks[0]) == 139_456


@pytest.fixture
def official(golden):
    """The vectors, and the network with their weights."""
    file = golden("pfnl")
    net = PFNL(file.hp("num_frame"), file.hp("mf"), file.hp("num_block"))
    net.load_state_dict(pfnl_from_variables(file.state()))
    return file, net


def test_golden_outputs_and_gradients(official):
    file, net = official
    frames, gt = (file.input(name).movedim(-1, -3) for name in ("x", "gt"))
    seen, center = {}, frames.shape[1] // 2
    for name in ("conv_first", "blocks.0", f"blocks.{file.hp('num_block') - 1}", "non_local"):
        net.get_submodule(name).register_forward_hook(lambda m, i, made, name=name: seen.update({name: made}))
    sr = net(frames)
    assert file.near(last_axis(sr).unsqueeze(1), "sr")
    assert file.near(last_axis(seen["non_local"] - frames.flatten(1, 2)), "nl")
    assert file.near(last_axis(seen["blocks.0"][:, center]), "block0_center")
    last = seen[f"blocks.{file.hp('num_block') - 1}"]
    assert file.near(last_axis(last[:, center]), "block19_center") and file.near(
        last_axis(last[:, 0]), "block19_frame0"
    )
    loss = ((sr - gt[:, 0]).square() + file.hp("charbonnier_eps2")).sqrt().mean()
    assert loss.item() == pytest.approx(file.z["out/loss"].item(), rel=1e-5)
    loss.backward()
    file.assert_gradients(net, pfnl_from_variables)


def attended_by_loops(block, x):
    """One place after the other, a place being a square of 2x2 pixels of all channels."""
    height, width = x.shape[-2:]
    squares = [(i, j) for i in range(0, height, 2) for j in range(0, width, 2)]
    value, out = x.clone(), x.clone()
    vectors = {place: x[:, :, place[0] : place[0] + 2, place[1] : place[1] + 2].flatten(1) for place in squares}
    project = {name: (getattr(block, name).weight.flatten(1), getattr(block, name).bias) for name in ("value", "out")}
    values = {place: vector @ project["value"][0].T + project["value"][1] for place, vector in vectors.items()}
    for place in squares:
        scores = torch.stack([(vectors[place] * vectors[other]).sum(1) for other in squares], 1)
        weights = scores.exp() / scores.exp().sum(1, keepdim=True)
        mixed = sum(weights[:, n : n + 1] * values[other] for n, other in enumerate(squares))
        added = (mixed @ project["out"][0].T + project["out"][1]).view(-1, x.shape[1], 2, 2)
        out[:, :, place[0] : place[0] + 2, place[1] : place[1] + 2] += added
    assert torch.equal(value, x)
    return out


def test_the_non_local_block_is_its_definition():
    block, x = NonLocal(2, 1.0).double(), torch.rand(2, 2, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), attended_by_loops(block, x))


def test_queries_in_pieces_give_the_same(monkeypatch):
    block, x = NonLocal(3, 1.0), torch.rand(2, 3, 12, 10)
    whole = block(x).detach()
    monkeypatch.setattr(pfnl_arch, "_PIECE", 7 * 2 * 30 * 4)  # 7 of the 30 queries, the last piece of 2
    sizes = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda s, dim: (sizes.append(s.shape[1]), softmax(s, dim))[1])
    with torch.no_grad():
        torch.testing.assert_close(block(x), whole)
        assert sizes == [7, 7, 7, 7, 2]
        with export_form():
            torch.testing.assert_close(block(x), whole)


def test_white_frames_do_not_overflow():
    assert torch.isfinite(NonLocal(21, 1.0)(torch.ones(1, 21, 32, 32))).all()  # exp(84), 256 times


def test_training_beyond_the_memory_is_refused_and_its_advice_holds():
    with refuses("PFNL", "max_attention", "-1"):
        PFNL(**TINY, max_attention=-1)
    net = PFNL(**TINY, max_attention=1e-3)
    with refuses("PFNL", "2 window(s)", "64x64", "max_attention", 38, "gt_size", 152):
        net(torch.rand(2, 3, 3, 64, 64))  # 2 * 1024^2 * 4 bytes
    net(torch.rand(2, 3, 3, 38, 38))
    with torch.no_grad():
        net(torch.rand(2, 3, 3, 64, 64))


@pytest.mark.parametrize("base", ["legacy", "bicubic", "none"])
def test_shapes_taps_and_gradients(base, taps_seen):
    net = PFNL(**TINY, base=base)
    seen = taps_seen(net, net.traits)
    out = net(torch.rand(2, 3, 3, 6, 8))
    assert out.shape == (2, 3, 24, 32)
    assert seen == {"f_sr": (2, 4, 12, 16), "f_lr": (2, 6, 6, 8)}
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_odd_sizes_and_tiles_go_through_the_runner():
    runner, clip = Runner(net := PFNL(**TINY).eval(), net.traits), torch.rand(3, 3, 41, 33)
    whole, tiled = (Restorer(runner, torch.device("cpu"), tile=tile).frames(clip, [1]) for tile in (0, 16))
    assert whole.shape == tiled.shape == (1, 3, 164, 132)
    assert not torch.allclose(whole, tiled, atol=1e-6)  # the non-local block sees less
    for parameter in net.non_local.out.parameters():
        parameter.data.zero_()
    whole, tiled = (Restorer(runner, torch.device("cpu"), tile=tile).frames(clip, [1]) for tile in (0, 16))
    torch.testing.assert_close(whole, tiled, atol=1e-5, rtol=0)


def test_an_even_window_is_refused():
    with refuses("PFNL", "num_frame", 6):
        PFNL(num_frame=6)
