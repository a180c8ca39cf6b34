"""A part of a network's channels: against CSD's own EDSR, one set of weights, files, inference and averages."""

from copy import deepcopy

import pytest
import torch

from kdsr_arch.archs.channel_split_arch import ChannelSplit
from kdsr_arch.export.form import reparametrize
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import traits_of
from tests.helpers.messages import refuses
from tests.helpers.networks import make_network

EDSR = {
    "type": "EDSR",
    "num_in_ch": 3,
    "num_out_ch": 3,
    "num_feat": 8,
    "num_block": 2,
    "res_scale": 0.1,
    "img_range": 1,
}


def split(**changes):
    return ChannelSplit(EDSR | changes, {"num_feat": 4}, scale=4)


def test_the_part_is_the_authors_edsr_at_half_its_width():
    net = split().eval()
    with torch.no_grad():
        for i, (_, p) in enumerate(sorted(net.named_parameters())):
            p.copy_((0.1 * torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 0.37 + i)).view(p.shape))
        image = net(torch.sin(torch.arange(90.0) * 0.11).view(1, 3, 5, 6) / 2 + 0.5)
    assert image.abs().mean().item() == pytest.approx(0.41388028860092163, rel=1e-5)
    some = [0.3990481495857239, 0.38748419284820557, 0.43380263447761536]
    assert image.flatten()[[0, 100, 500]].tolist() == pytest.approx(some, rel=1e-5)


def test_there_is_one_set_of_weights_and_it_is_the_whole_networks():
    net, plain, x = split(), make_network(EDSR | {"upscale": 4}), torch.rand(2, 3, 6, 5)
    assert list(net.state_dict()) == list(plain.state_dict())
    net.load_state_dict(plain.state_dict())
    with net.whole():
        torch.testing.assert_close(net(x), plain(x))
    net(x).sum().backward()
    grad = net.body[0].conv1.weight.grad
    assert grad[:4, :4].abs().min() > 0 and not grad[4:].any() and not grad[:, 4:].any()
    with torch.no_grad():
        net.conv_first.weight[:4] += 1
        assert not torch.equal(net.for_inference()(x), make_network(EDSR | {"upscale": 4})(x))


def test_it_moves_with_what_the_network_holds_at_its_root():
    """SPAN keeps its mean there, as a buffer: both forms must find it where they went."""
    net = ChannelSplit({"type": "SPAN", "num_feat": 8, "num_block": 1}, {"num_feat": 4}, scale=4)
    assert list(net.named_buffers(recurse=False))
    before = net.eval()(x := torch.rand(1, 3, 12, 12))
    net.double()
    torch.testing.assert_close(net(x.double()), before.double(), atol=1e-5, rtol=0)
    with net.whole():
        assert net(x.double()).dtype == torch.float64
        assert net.to("meta")(x.double().to("meta")).shape == (1, 3, 48, 48)


def test_inference_copies_and_exports_run_the_part_alone():
    net, x = split().eval(), torch.rand(1, 3, 6, 5)
    with torch.no_grad():
        wanted = net(x)
        copy = deepcopy(net)
        for p in net.parameters():
            p.add_(1)
        torch.testing.assert_close(copy(x), wanted)
        torch.testing.assert_close(Runner(copy, traits_of(copy, 4)).restore(x), wanted)
        torch.testing.assert_close(reparametrize(copy)[0](x), wanted)
    part = copy.for_inference()
    assert sum(p.numel() for p in part.parameters()) < 0.3 * sum(p.numel() for p in copy.parameters())
    assert traits_of(part, 4) == copy.traits and copy.traits.taps == {}


def test_statistics_of_the_part_are_the_wholes():
    net = split().train()
    assert all(module.training for module in net._networks[1].modules())
    assert not any(module.training for part in net.eval()._networks for module in part.modules())


def test_what_is_refused():
    with refuses("ChannelSplit", "narrow"):
        ChannelSplit(EDSR, {})
    with refuses("ChannelSplit", "narrow"):
        ChannelSplit(EDSR, {"num_feat": 12})
    with refuses("ChannelSplit", "narrow"):
        ChannelSplit(EDSR, {"num_block": 3})
