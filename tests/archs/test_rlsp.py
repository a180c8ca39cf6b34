"""RLSP: parameters, the recurrence by its definition, the start from an image network, what a frame sees, taps."""

import pytest
import torch
from torch.nn import functional as F

from kdsr_arch.archs.ecbsr_arch import PlainSR
from kdsr_arch.archs.rlsp_arch import RLSP
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.open import load_weights
from kdsr_arch.infer.runner import Runner
from tests.helpers.messages import refuses

TINY = {"num_feat": 6, "num_block": 2}


def _spread(net):
    """Move all parameters, so that no layer starts at zero."""
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("options", "wanted"), [({"num_feat": 24, "num_block": 8, "act": "prelu"}, 75_048), (TINY, 7_038)]
)
def test_parameter_count(options, wanted):
    assert count_parameters(RLSP(**options)) == wanted


def test_a_frame_is_restored_from_its_neighbors_its_memory_and_the_output_before():
    net, clip = _spread(RLSP(**TINY)), torch.rand(2, 3, 3, 5, 7)
    kernel = torch.cat([net.head[0].weight, net.around.weight], 1)  # one convolution of all inputs, as published
    memory, before = torch.zeros(2, 6, 5, 7), torch.zeros(2, 48, 5, 7)
    wanted = []
    for t, (earlier, later) in enumerate(((0, 1), (0, 2), (1, 2))):
        given = torch.cat([clip[:, t], clip[:, earlier], clip[:, later], memory, before], 1)
        features = F.conv2d(given, kernel, net.head[0].bias, padding=1).relu()
        for conv, _ in net.body:
            features = F.conv2d(features, conv.weight, conv.bias, padding=1).relu()
        repeated = F.interpolate(clip[:, t], scale_factor=4, mode="nearest")
        sr = F.pixel_shuffle(net.tail(features), 4) + repeated
        memory, before = net.memory[0](features).relu(), F.pixel_unshuffle(sr, 4)
        wanted.append(sr)
    torch.testing.assert_close(net(clip), torch.stack(wanted, 1))


@pytest.mark.parametrize(("act", "width"), [("prelu", 6), ("relu", 6), ("prelu", 9)])
def test_it_starts_as_the_image_network_whose_weights_it_takes(act, width, tmp_path):
    image = _spread(PlainSR(**TINY, act=act, residual="bicubic"))
    torch.save({"params": image.state_dict()}, tmp_path / "image.pth")
    net, clip = RLSP(num_feat=width, num_block=2, act=act, base="bicubic"), torch.rand(1, 4, 3, 8, 6)
    load_weights(net, tmp_path / "image.pth", "params", strict=False)
    torch.testing.assert_close(net(clip)[0], image(clip[0]))
    net(clip).square().mean().backward()
    assert net.around.weight.grad[:, :6].abs().sum() > 0  # and learns from the frames around


def test_a_frame_sees_one_later_frame_and_all_earlier_ones():
    net, clip = _spread(RLSP(**TINY)), torch.rand(1, 5, 3, 6, 6)
    whole = net(clip)
    for changed, seen in ((0, [0, 1, 2, 3, 4]), (3, [2, 3, 4])):
        other = clip.clone()
        other[:, changed] = 0
        differs = (net(other) - whole).abs().amax((0, 2, 3, 4)) > 1e-6
        assert differs.nonzero().flatten().tolist() == seen


def test_zero_flow_changes_nothing():
    plain, moved = _spread(RLSP(**TINY)), RLSP(**TINY, motion=True, num_flow_feat=4).eval()
    moved.load_state_dict(plain.state_dict(), strict=False)  # flow networks start at zero
    clip = torch.rand(1, 3, 3, 9, 7)
    torch.testing.assert_close(moved(clip), plain(clip))


def test_what_other_frames_gave_is_brought_along_the_flow(monkeypatch):
    net, clip, given = _spread(RLSP(**TINY, motion=True, num_flow_feat=4)), torch.rand(1, 3, 3, 6, 8), []
    monkeypatch.setattr(net.motion, "flow", lambda target, _: target.new_ones(len(target), 2, *target.shape[-2:]))
    net.around.register_forward_hook(lambda module, args, made: given.append(args[0]))
    carried, step = [], net.step
    monkeypatch.setattr(net, "step", lambda *args: carried.append(step(*args)) or carried[-1])
    restored = F.pixel_unshuffle(net(clip)[0], 4)

    def along(image):
        return F.pad(image, (0, 1, 0, 1), mode="replicate")[..., 1:, 1:]

    for t, (before, after) in enumerate(((0, 1), (0, 2), (1, 2))):
        torch.testing.assert_close(given[t][:, :6], along(torch.cat([clip[:, before], clip[:, after]], 1)))
    assert not given[0][:, 6:].any()
    for t in (1, 2):
        wanted = torch.cat([carried[t - 1][0], restored[t - 1 : t]], 1)
        torch.testing.assert_close(given[t][:, 6:], along(wanted))


def test_single_frames_are_clips():
    assert RLSP(scale=2, **TINY)(torch.rand(2, 1, 3, 4, 4)).shape == (2, 1, 3, 8, 8)


def test_taps():
    net = RLSP(**TINY, act="prelu")
    runner = Runner(net, net.traits)
    assert net.get_submodule(net.traits.taps["f_lr"]) is net.body and runner.traits.taps["memory"] == "memory"


def test_other_activations_are_refused():
    with refuses("act", "gelu"):
        RLSP(act="gelu")
