"""FastDVDnet: parameters, golden outputs of the denoiser, the super-resolution head, behavior of batch norm."""

import pytest
import torch
from torch import nn

from kdsr_arch.archs.fastdvdnet_arch import FastDVDnet
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.runner import Runner, window_indices
from tests.helpers.messages import refuses

TINY = {"channels": (4, 6, 8), "num_interm": 3, "num_hr_feat": 4}


def test_parameter_counts():
    denoiser = FastDVDnet(scale=1, noise_map=True)
    assert count_parameters(denoiser) == 2_479_096
    assert count_parameters(denoiser.temp1) == count_parameters(denoiser.temp2) == 1_239_548


@pytest.mark.parametrize("name", ["fastdvdnet", "fastdvdnet_small"])
def test_golden_denoiser(golden, name):
    file = golden(name)
    widths = tuple(file.hp(f"chs_lyr{i}") for i in range(3))
    net = FastDVDnet(scale=1, channels=widths, num_interm=file.hp("interm_ch"), noise_map=True).eval()
    net.load_state_dict(file.state())
    x = file.input("x")
    with torch.no_grad():
        assert file.near(net(x.unflatten(1, (file.hp("temp_psz"), -1)), file.input("noise_map")), "den")


@pytest.mark.parametrize("name", ["fastdvdnet", "fastdvdnet_small"])
def test_golden_sequence_through_the_runner(golden, name):
    file = golden(name)
    widths = tuple(file.hp(f"chs_lyr{i}") for i in range(3))
    net = FastDVDnet(scale=1, channels=widths, num_interm=file.hp("interm_ch"), noise_map=True).eval()
    net.load_state_dict(file.state())
    level = file.input("noise_std")

    class WithMap(nn.Module):
        def forward(self, x):
            return net(x, level.view(1, 1, 1, 1).expand(x.shape[0], 1, *x.shape[-2:])).clamp(0, 1)

    runner = Runner(WithMap(), net.traits)
    seq = file.input("seq")
    windows = [window_indices(i, len(seq), net.traits.num_frame, "reflection") for i in range(len(seq))]
    assert file.near(runner.restore(seq.unsqueeze(0), windows=windows)[0], "den_seq")


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": 2, "color": "y"}, {"norm": "none", "base": "none"}, {"scale": 3, "base": "bilinear"}],
    ids=str,
)
def test_super_resolution_shapes_taps_and_gradients(options, taps_seen):
    net = FastDVDnet(**TINY, **options)
    channels, scale = (1 if net.traits.color == "y" else 3), net.traits.scale
    seen = taps_seen(net, net.traits)
    out = net(torch.rand(2, 5, channels, 8, 12))
    assert out.shape == (2, channels, 8 * scale, 12 * scale)
    assert seen == {"f_sr": (2, 4, 8 * scale, 12 * scale), "f_lr": (2, 4, 8, 12)}
    out.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_no_norm_means_no_buffers_and_independent_samples():
    net = FastDVDnet(**TINY, norm="none").train()
    assert not list(net.buffers())
    x = torch.rand(3, 5, 3, 8, 8)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), atol=1e-5, rtol=1e-5)


def test_batch_norm_uses_running_statistics_in_evaluation_and_trains_on_one_window():
    net = FastDVDnet(**TINY)
    x = torch.rand(2, 5, 3, 8, 8)
    net.train()(x[:1]).mean().backward()  # one window has 64 pixels of statistics
    frozen = {k: v.clone() for k, v in net.state_dict().items()}
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(net(x)[:1], net(x[:1]), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(v, frozen[k]) for k, v in net.state_dict().items())


def test_bad_options_are_refused():
    with refuses("norm", "group", "batch", "none"):
        FastDVDnet(norm="group")
    with refuses("channels", "[8, 16]"):
        FastDVDnet(channels=(8, 16))
    with refuses("FastDVDnet", "noise_map"):
        FastDVDnet(**TINY)(torch.rand(1, 5, 3, 8, 8), torch.rand(1, 1, 8, 8))


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_inference_form_equals_the_network(norm):
    net = FastDVDnet(**TINY, norm=norm).eval()
    fast, x = net.for_inference(), torch.rand(1, 5, 3, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), atol=1e-4, rtol=0)
    assert isinstance(net.temp2.outc.convblock[3], nn.Conv2d) and fast.fused
