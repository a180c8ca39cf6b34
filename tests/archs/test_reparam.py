"""Blocks of several branches are the convolution that they fold into, and the published branches are that too."""

import pytest
import torch
import torch.nn.functional as F
from basicsr.archs.ecbsr_arch import ECB as BranchesECB
from basicsr.archs.ecbsr_arch import ECBSR
from torch import nn

from kdsr_arch.archs.ecbsr_arch import PlainSR
from kdsr_arch.archs.etds_arch import ETDS
from kdsr_arch.archs.inference_form import reparametrize
from kdsr_arch.archs.reparam import ECB, Conv3XC
from kdsr_arch.convert.names import ecb_from_official
from kdsr_arch.convert.published import SOURCES, convert_state
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.runner import Runner, fold
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.ops.bicubic import imresize
from kdsr_arch.registry import build
from tests.helpers.messages import refuses

SIZES = [(1, 1), (2, 3), (7, 10)]


def randomize(net):
    """Weights and biases large enough that every branch counts, its padding too."""
    for parameter in net.parameters():
        if parameter.requires_grad:  # not the edge filters, which are frozen parameters in BasicSR
            nn.init.normal_(parameter, std=0.3)
    return net


@pytest.mark.parametrize("channels", [(3, 5), (4, 4)])
@pytest.mark.parametrize("size", SIZES)
def test_ecb_is_the_published_branches(channels, size):
    """BasicSR's block in training form: five convolutions, inner maps padded by the inner bias; gradients as well."""
    theirs = randomize(BranchesECB(*channels, depth_multiplier=2, act_type="linear")).double().train()
    ours = ECB(*channels).double()
    ours.load_state_dict(ecb_from_official(theirs.state_dict()))
    seed = torch.randn(2, channels[1], *size, dtype=torch.float64)
    inputs = [torch.randn(2, channels[0], *size, dtype=torch.float64).requires_grad_()]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    outputs = [net(x) for net, x in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    for y in outputs:
        y.backward(seed)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    branch = theirs.conv1x1_3x3
    pairs = [(ours.weight, theirs.conv3x3.weight), (ours.bias, branch.b1), (ours.squeeze, branch.k1),
             (ours.expand, branch.k0), (ours.expand_bias, branch.b0)]  # fmt: skip
    for parameter, public in pairs:
        torch.testing.assert_close(parameter.grad, public.grad.view_as(parameter))
    for i, branch in enumerate((theirs.conv1x1_sbx, theirs.conv1x1_sby, theirs.conv1x1_lpl)):
        torch.testing.assert_close(ours.edge.grad[i], branch.k0.grad.flatten(1))
        torch.testing.assert_close(ours.edge_scale.grad[i], branch.scale.grad.flatten())
        assert branch.b0.grad.abs().max() < 1e-12  # left out here, having no effect


def test_the_identity_of_ecb_is_where_its_kernel_starts():
    seeds = []
    for identity in (False, True):
        torch.manual_seed(0)
        seeds.append(ECB(4, 4, identity=identity))
    x = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(seeds[1](x) - seeds[0](x), x, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_conv3xc_is_its_branches(size):
    block = randomize(Conv3XC(3, 5)).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    row = F.conv2d(F.pad(x, (1, 1, 1, 1)), block.expand[..., None, None], block.expand_bias)
    row = F.conv2d(F.conv2d(row, block.middle, block.middle_bias), block.squeeze[..., None, None], block.bias)
    torch.testing.assert_close(block(x), row + F.conv2d(x, block.skip[..., None, None]))


@pytest.mark.parametrize("block", [ECB, Conv3XC])
def test_under_autocast_the_kernel_is_made_in_float32(block):
    net, x = randomize(block(8, 8)), torch.randn(1, 8, 6, 6)
    plain = net.folded()
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
        assert y.dtype == torch.bfloat16 and torch.equal(y, plain(x))


@pytest.mark.parametrize("block", ["ecb", "conv3xc"])
def test_a_folded_network_is_plain_and_the_same(block):
    net = PlainSR(2, num_block=2, block=block, residual="bicubic").eval()
    plain = PlainSR(2, num_block=2)
    x = torch.rand(2, 3, 9, 12)
    folded = fold(net)
    assert {n: v.shape for n, v in folded.state_dict().items()} == {n: v.shape for n, v in plain.state_dict().items()}
    assert (folded(x) - net(x)).abs().max() < 1e-5
    assert count_parameters(net) == count_parameters(plain) < sum(p.numel() for p in net.parameters())
    exported, changes = reparametrize(net)
    assert len(changes) == 4 and f"tail: {type(net.tail).__name__} -> convolution" in changes
    assert (exported(x) - net(x)).abs().max() < 1e-5


def test_the_runner_folds_and_folds_anew_after_a_step():
    net = PlainSR(2, num_feat=4, num_block=1, block="ecb")
    runner, x = Runner(net.eval(), traits_of(net)), torch.rand(1, 3, 6, 6)
    first = runner.inference_net()
    assert isinstance(first.tail, nn.Conv2d) and runner.inference_net() is first
    with torch.no_grad():
        net.tail.bias += 1
    torch.testing.assert_close(runner.restore(x), net(x))
    assert isinstance(net.tail, ECB)


@pytest.mark.parametrize("kind", ["none", "repeat", "bilinear", "bicubic"])
def test_what_the_residual_is(kind):
    net, x = PlainSR(3, num_feat=4, num_block=1, residual=kind), torch.rand(2, 3, 5, 8)
    for parameter in net.tail.parameters():
        nn.init.zeros_(parameter)
    expected = {
        "none": lambda: torch.zeros(2, 3, 15, 24),
        "repeat": lambda: x.repeat_interleave(3, 2).repeat_interleave(3, 3),
        "bilinear": lambda: F.interpolate(x, scale_factor=3, mode="bilinear"),
        "bicubic": lambda: imresize(x, 3),
    }
    torch.testing.assert_close(net(x), expected[kind]())


@pytest.mark.parametrize("key,value", [("block", "ecp"), ("act", "elu"), ("residual", "nearest")])
def test_unknown_kinds(key, value):
    with refuses(key, value):
        PlainSR(**{key: value})


@pytest.mark.parametrize("channels", [1, 3])
def test_ecbsr_of_basicsr_converts(channels):
    theirs = randomize(ECBSR(channels, channels, 2, 8, False, "prelu", 4)).double().train()
    done = convert_state(SOURCES["ecbsr-branches"], theirs.state_dict())
    net = build("network", done.network, "network").double()
    net.load_state_dict(done.params)
    x = torch.rand(1, channels, 6, 9, dtype=torch.float64)
    torch.testing.assert_close(net(x), theirs(x))
    assert done.network == {"type": "PlainSR", "scale": 4, "num_in_ch": channels, "num_feat": 8, "num_block": 2,
                            "block": "ecb", "act": "prelu", "residual": "repeat"}  # fmt: skip


def test_span_with_its_branches_converts():
    """Spandrel's own network in training mode runs the branches one by one."""
    span = pytest.importorskip("spandrel.architectures.SPAN.__arch.span")
    theirs = randomize(span.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2)).double().train()
    done = convert_state(SOURCES["span"], theirs.state_dict())
    assert done.network == {"type": "SPAN", "scale": 2, "num_feat": 8, "num_block": 6, "block": "conv3xc"}
    net = build("network", done.network, "network").double()
    net.load_state_dict(done.params)
    x = torch.rand(2, 3, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(net(x), theirs(x), atol=1e-7, rtol=1e-5)


def test_etds_is_two_streams():
    """The features, and the image carried beside them, as the paper's equations have them before the transformation."""
    net = randomize(ETDS(2, 3, 8, 2, 4)).double()
    x = torch.rand(2, 3, 6, 7, dtype=torch.float64)

    def conv(inputs, layer, rows, columns):
        return F.conv2d(inputs, layer.weight[rows][:, columns], layer.bias[rows], padding=1)

    low, high, whole = slice(0, 4), slice(4, 8), slice(None)
    y, r = (F.relu(conv(x, net.head[0], rows, whole)) for rows in (low, high))
    for layer, _ in net.body:
        mixed = F.conv2d(r, layer.weight[:, high], padding=1)
        y, r = F.relu(conv(y, layer, whole, low) + mixed), F.relu(F.conv2d(r, layer.carry, layer.carry_bias, padding=1))
    sr = conv(y, net.tail, whole, low) + F.conv2d(r, net.tail.weight[:, high], padding=1)
    torch.testing.assert_close(net(x), F.pixel_shuffle(sr, 2))
    plain = PlainSR(2, 3, 8, 2, act="relu", residual="none").double()
    plain.load_state_dict(fold(net).state_dict())
    torch.testing.assert_close(plain(x), net(x))


def test_etds_starts_by_repeating_the_image():
    net, x = ETDS(3, 3, 8, 2, 3), torch.rand(1, 3, 5, 6)
    with torch.no_grad():
        net.tail.weight[:, :5] = 0
        net.tail.bias.zero_()
    torch.testing.assert_close(net(x), x.repeat_interleave(3, 2).repeat_interleave(3, 3))


def test_etds_wants_room_for_the_image():
    with refuses("num_carried", "2"):
        build("network", {"type": "ETDS", "num_carried": 2}, "network_g")
