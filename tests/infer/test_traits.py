"""Traits of BasicSR's networks: scale, window, color, and taps that exist and have the promised size."""

import pytest
import torch
from basicsr.archs import build_network
from torch import nn

from kdsr_arch.archs import teacher_arch  # noqa: F401
from kdsr_arch.infer.traits import Traits, traits_of, unwrap
from tests.helpers.messages import refuses

SMALL_EDVR = {"type": "EDVR", "num_feat": 8, "deformable_groups": 2, "num_extract_block": 1, "num_reconstruct_block": 1}
NETWORKS = [
    ({**SMALL_EDVR, "num_frame": 3}, Traits("window", 4, 3, multiple=4)),
    ({**SMALL_EDVR, "num_frame": 7, "with_tsa": False}, Traits("window", 4, 7, multiple=4)),
    ({**SMALL_EDVR, "hr_in": True, "with_predeblur": True}, Traits("window", 1, 5, multiple=16)),
    ({"type": "DUF", "num_layer": 16, "scale": 3}, Traits("window", 3, 7)),
    ({"type": "TOFlow"}, Traits("window", 4, 7, upsampled_input=True, multiple=16)),
    ({"type": "BasicVSR", "num_feat": 8, "num_block": 1}, Traits("recurrent", 4, min_clip=2, min_size=33)),
    ({"type": "IconVSR", "num_feat": 8, "num_block": 1}, Traits("recurrent", 4, min_clip=5, min_size=33, multiple=4)),
    (
        {"type": "BasicVSRPlusPlus", "mid_channels": 16, "num_blocks": 1},
        Traits("recurrent", 4, min_clip=2, min_size=64),
    ),
    (
        {"type": "RCAN", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_group": 1, "num_block": 1, "upscale": 8},
        Traits("image", 8),
    ),
    (
        {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "upscale": 3},
        Traits("image", 3),
    ),
    ({"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2}, Traits("image", 2)),
    (
        {"type": "MSRResNet", "num_in_ch": 1, "num_out_ch": 1, "num_feat": 8, "num_block": 1, "upscale": 2},
        Traits("image", 2, color="y"),
    ),
    (
        {
            "type": "RRDBNet",
            "num_in_ch": 3,
            "num_out_ch": 3,
            "scale": 2,
            "num_feat": 8,
            "num_block": 1,
            "num_grow_ch": 4,
        },
        Traits("image", 2, multiple=2),
    ),
    (
        {
            "type": "SwinIR",
            "upscale": 2,
            "img_size": 16,
            "window_size": 8,
            "embed_dim": 12,
            "depths": [2],
            "num_heads": [2],
            "upsampler": "pixelshuffle",
        },
        Traits("image", 2, multiple=8),
    ),
    (
        {
            "type": "SwinIR",
            "upscale": 2,
            "img_size": 16,
            "window_size": 4,
            "embed_dim": 12,
            "depths": [2],
            "num_heads": [2],
            "upsampler": "pixelshuffledirect",
        },
        Traits("image", 2, multiple=4),
    ),
    ({"type": "SRVGGNetCompact", "num_feat": 8, "num_conv": 2, "upscale": 4}, Traits("image", 4)),
    (
        {
            "type": "ECBSR",
            "num_in_ch": 1,
            "num_out_ch": 1,
            "num_block": 2,
            "num_channel": 8,
            "with_idt": False,
            "act_type": "prelu",
            "scale": 2,
        },
        Traits("image", 2, color="y"),
    ),
]


def input_for(traits: Traits) -> torch.Tensor:
    side = -(-max(16, traits.min_size) // traits.multiple) * traits.multiple
    channels = 1 if traits.color == "y" else 3
    frames = {"image": (), "window": (traits.num_frame,), "recurrent": (traits.min_clip,)}[traits.mode]
    size = side * (traits.scale if traits.upsampled_input else 1)
    return torch.rand(1, *frames, channels, size, size)


@pytest.mark.parametrize(("opt", "expected"), NETWORKS, ids=lambda v: v["type"] if isinstance(v, dict) else "")
def test_table_and_taps_of_basicsr(opt, expected, taps_seen):
    net = build_network(dict(opt)).eval()
    traits = traits_of(net)
    for name in ("mode", "scale", "num_frame", "color", "upsampled_input", "multiple", "min_size", "min_clip"):
        assert getattr(traits, name) == getattr(expected, name), name
    assert "f_lr" in traits.taps
    assert set(traits.taps.values()) <= set(dict(net.named_modules()))
    seen = taps_seen(net, traits)
    x = input_for(traits)
    with torch.no_grad():
        out = net(x)
    factor = 1 if traits.upsampled_input else traits.scale
    assert out.shape[-2:] == (x.shape[-2] * factor, x.shape[-1] * factor)
    assert set(seen) == set(traits.taps)
    if "f_sr" in seen:
        assert seen["f_sr"][-2:] == out.shape[-2:]


def test_own_traits_come_first_also_through_wrappers():
    net = nn.Conv2d(3, 3, 3)
    net.traits = Traits("window", 2, num_frame=3, taps={"f_sr": ""})
    assert traits_of(nn.DataParallel(net)) is net.traits
    assert unwrap(torch.compile(net)) is net


def test_scale_that_differs_or_is_unknown_is_refused():
    net = build_network({"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "upscale": 3})
    with refuses("EDSR", 3, 4):
        traits_of(net, 4)
    with refuses("Conv2d", "traits", "scale"):
        traits_of(nn.Conv2d(1, 1, 3))
    assert traits_of(nn.Conv2d(1, 1, 3), 2) == Traits("image", 2, color="y")


@pytest.mark.parametrize(
    "bad",
    [
        {"mode": "movie"},
        {"mode": "window", "num_frame": 4},
        {"mode": "image", "num_frame": 3},
        {"mode": "image", "scale": 0},
        {"mode": "image", "color": "bgr"},
        {"mode": "image", "input": "hq"},
    ],
)
def test_impossible_traits_are_refused(bad):
    with pytest.raises(ValueError):
        Traits(**{"scale": 2, **bad})


@pytest.mark.parametrize(
    ("traits", "side", "wanted"),
    [
        (Traits("image", 2), 7, 7),
        (Traits("image", 2, multiple=4, min_size=10), 3, 12),
        (Traits("image", 2, multiple=4, min_size=10), 13, 16),
        (Traits("image", 4, upsampled_input=True, multiple=16, min_size=64), 9, 16),
        (Traits("image", 4, upsampled_input=True, multiple=16, min_size=64), 17, 20),
    ],
)
def test_a_side_of_the_lr_image_is_rounded_up_to_what_the_network_takes(traits, side, wanted):
    assert traits.lr_side(side) == wanted
