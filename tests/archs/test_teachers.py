"""BasicSR's other video teachers on the CPU: golden outputs, alignment, taps, whole clips."""

import warnings

import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.duf_arch import DUF as BasicDUF
from basicsr.archs.tof_arch import TOFlow

from kdsr_arch.archs import teacher_arch  # noqa: F401
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import traits_of
from tests.helpers.messages import refuses


def test_golden_duf_under_its_own_name(golden, taps_seen):
    file = golden("duf16")
    sizes = {name: file.hp(name) for name in ("scale", "num_layer")}
    adapted = file.hp("bn_eps") == 1e-3  # of the authors' TensorFlow; 1e-5 is PyTorch's
    net = build_network({"type": "DUF", **sizes, "adapt_official_weights": adapted}).eval()
    assert isinstance(net, BasicDUF)
    net.load_state_dict(file.state())
    traits, x = traits_of(net), file.input("x")
    seen = taps_seen(net, traits)
    with torch.no_grad():
        assert file.near(net(x), "sr")
    batch, _, channels, *size = x.shape
    large = [side * traits.scale for side in size]
    assert seen == {"f_sr": (batch, channels, *large), "f_lr": (batch, 256, *size)}


def test_golden_toflow(golden):
    file = golden("tof")
    net = TOFlow(adapt_official_weights=bool(file.hp("adapt_official_weights"))).eval()
    net.load_state_dict(file.state())
    x = file.input("x")
    with torch.no_grad():
        assert file.near(net(x), "sr")
        normal = [net.normalize(x[:, i]) for i in (3, 2)]
        assert file.near(net.spynet(*normal), "flow_ref3_sup2")


def plus_plus(**options):
    return build_network({"type": "BasicVSRPlusPlus", "mid_channels": 8, "num_blocks": 1, **options})


def test_basicvsrpp_aligns_without_a_gpu_and_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        net = plus_plus().eval()
    assert net.is_with_alignment and len(net.deform_align) == 4
    clip = torch.rand(1, 3, 3, 64, 64)
    with torch.no_grad():
        before = net(clip)
        for align in net.deform_align.values():
            align.weight.mul_(2)
        assert (net(clip) - before).abs().max() > 1e-6


@pytest.mark.slow
def test_basicvsrpp_forgets_a_mirrored_clip():
    net = plus_plus().eval()
    clip = torch.rand(1, 2, 3, 64, 64)
    with torch.no_grad():
        before = net(clip)
        net(torch.cat([clip, clip.flip(1)], 1))
        torch.testing.assert_close(net(clip), before)


@pytest.mark.parametrize(
    ("opt", "side"),
    [
        ({"type": "BasicVSR", "num_feat": 8, "num_block": 1}, 40),
        ({"type": "BasicVSRPlusPlus", "mid_channels": 8, "num_blocks": 1}, 64),
    ],
    ids=lambda v: v["type"] if isinstance(v, dict) else "",
)
def test_recurrent_teachers_give_one_feature_per_frame_and_refuse_single_windows(opt, side):
    net = build_network(dict(opt)).eval()
    traits = traits_of(net, 4)
    runner, fired = Runner(net, traits), []
    net.get_submodule(traits.taps["f_sr"]).register_forward_hook(lambda m, i, o: fired.append(tuple(o.shape)))
    with torch.no_grad():
        out = runner.forward(torch.rand(1, 5, 3, side, side), clip=3)
    assert out.shape == (1, 3, 3, 4 * side, 4 * side)
    assert fired == [(1, 64, 4 * side, 4 * side)] * 3
    with refuses(opt["type"], 2, 1, "clip_length"):
        runner.forward(torch.rand(1, 5, 3, side, side), clip=1)


def test_toflow_through_the_runner_keeps_any_size():
    net = build_network({"type": "TOFlow"}).eval()
    assert Runner(net, traits_of(net, 4)).restore(torch.rand(1, 2, 3, 5, 6)).shape == (1, 2, 3, 20, 24)
