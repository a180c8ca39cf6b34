"""An int8 student rounds where it says, starts from its float form, and learns."""

import pytest
import torch
from torch import nn

from kdsr_arch.archs.int8_arch import Int8, Int8Base, Range, mirrored
from kdsr_arch.infer.open import load_weights, open_network
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.io import save_tensors
from kdsr_arch.ops.bicubic import imresize
from kdsr_arch.options.yaml_reader import parse_value
from kdsr_arch.registry import build
from tests.helpers.messages import refuses

FLOAT = "{type: PlainSR, scale: 2, num_feat: 6, num_block: 1, block: ecb, act: prelu, residual: bicubic}"


def networks(text=FLOAT):
    """A float student and its int8 form, calibrated."""
    torch.manual_seed(0)
    net = build("network", parse_value(text), "network_g").eval().requires_grad_(False)
    made = Int8.of(net, traits_of(net))
    made.calibrate(list(torch.rand(4, 1, made.channels, 24, 24)))
    return net, made


def test_a_range_rounds_to_its_steps():
    part = Range((0.0, 1.0))
    got = part(torch.tensor([-0.1, 0.0, 0.11, 0.503, 0.7, 1.3]))
    torch.testing.assert_close(255 * got, torch.tensor([0.0, 0, 28, 128, 178, 255]), atol=1e-3, rtol=0)
    part = Range()
    part.train()(torch.tensor([-1.0, 0.5, 4.1]))  # steps of 0.02, zero at -78
    assert (int(part.zero()), round(float(part.step()), 6)) == (-78, 0.02)
    part.eval()
    torch.testing.assert_close(part(torch.tensor([-3.0, 0.033, 9.0])), torch.tensor([-1.0, 0.04, 4.1]))


def test_bounds_follow_what_is_seen_in_training_alone():
    part = Range()
    part.train()(torch.tensor([1.0, 2.0]))
    assert (float(part.low), float(part.high)) == (0, 2)  # zero stays representable
    part(torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(torch.stack([part.low, part.high]), torch.tensor([-0.05, 1.99]))
    before = part.state_dict()["high"].clone()
    part.eval()(torch.tensor([9.0]))
    assert part.high == before


@pytest.mark.parametrize("kind", ["repeat", "bilinear", "bicubic"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_enlarged_input_is_right_and_flat_where_the_image_is(kind, scale):
    text = f"{{type: PlainSR, scale: {scale}, num_feat: 4, num_block: 0, residual: {kind}}}"
    base = networks(text)[1].base
    for value in (0, 37, 255):
        flat = base(torch.full((1, 3, 5, 6), value / 255))
        torch.testing.assert_close(flat * 255, torch.full_like(flat, value))
    if kind == "bicubic":
        x = nn.functional.avg_pool2d(torch.rand(1, 3, 20, 22), 5, 1)
        got = nn.functional.pixel_shuffle(base(x), scale)
        assert (got - imresize(x, scale)).abs().max() < 1.5 / 255


def test_borders_are_mirrored_with_the_border_pixel():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert mirrored(x, 2)[0, 0, 2].tolist() == [1, 0, 0, 1, 2, 2, 1]
    assert isinstance(networks()[1].base, Int8Base) and mirrored(x, 0) is x


@pytest.mark.parametrize("text", [FLOAT, FLOAT.replace("prelu", "relu"), FLOAT.replace("bicubic", "none"),
                                  "{type: FSRCNN, scale: 2, d: 6, s: 5, m: 1, prelu: channel}"])  # fmt: skip
def test_it_gives_pixels_near_those_of_the_float_student(text):
    net, made = networks(text)
    x = torch.rand(2, made.channels, 12, 15)
    got, expected = made(x), net((x * 255).round() / 255).clamp(0, 1)
    torch.testing.assert_close(got * 255, (got * 255).round(), atol=1e-3, rtol=0)
    assert got.shape == expected.shape and (got - expected).abs().mean() < 0.02


@pytest.mark.parametrize("text", [FLOAT, FLOAT.replace("prelu", "relu"), FLOAT.replace("bicubic", "none"),
                                  "{type: FSRCNN, scale: 2, d: 6, s: 5, m: 1, prelu: channel}"])  # fmt: skip
def test_without_rounding_it_is_the_float_student(text):
    net, made = networks(text)
    x = torch.rand(2, made.channels, 12, 15)
    torch.testing.assert_close(made.unrounded(x), net(x), atol=1e-5, rtol=0)


def test_it_starts_from_the_float_students_file_and_knows_its_own(tmp_path):
    net, _ = networks()
    save_tensors({"params": net.state_dict()}, tmp_path / "float.pth")
    spec = {"type": "Int8", "network": parse_value(FLOAT)}
    made = build("network", spec, "network_g")
    load_weights(made, tmp_path / "float.pth")
    assert not made.measured
    made.calibrate(list(torch.rand(2, 1, 3, 16, 16)))
    save_tensors({"params": made.state_dict()}, tmp_path / "int8.pth")
    again = open_network(tmp_path / "int8.pth", f"{{type: Int8, network: {FLOAT}}}").net
    x = torch.rand(1, 3, 9, 9)
    assert again.measured and torch.equal(again(x), made(x))
    with refuses("other.pth", "layers.0.weight"):
        save_tensors({"params": {"a": torch.ones(2)}}, tmp_path / "other.pth")
        load_weights(made, tmp_path / "other.pth")


def test_training_moves_every_parameter_towards_the_float_student():
    net, _ = networks()
    made = Int8.of(net, traits_of(net)).requires_grad_(True).train()
    for parameter in made.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    optimizer, losses = torch.optim.Adam(made.parameters(), lr=2e-3), []
    for _ in range(60):
        x = torch.rand(4, 3, 12, 12)
        loss = (made(x) - net(x).clamp(0, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_networks_that_are_no_chain_are_refused_by_what_they_have():
    with refuses("int8", "IMDB1"):
        build("network", {"type": "Int8", "network": {"type": "IMDN", "num_feat": 8}}, "network_g")
