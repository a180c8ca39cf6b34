"""BasicSR's EDVR runs here through our deformable convolution; the slim EDVR is the same network, narrower."""

import pytest
import torch
from basicsr.archs.edvr_arch import EDVR

from kdsr_arch.archs.edvr_arch import EDVRSlim
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.ops.bicubic import upsample_bicubic
from tests.helpers.messages import refuses


def test_parameter_counts_of_m_and_l():
    with torch.device("meta"):
        assert count_parameters(EDVR()) == 3_300_131
        large = {"num_feat": 128, "num_reconstruct_block": 40}
        assert count_parameters(EDVR(**large)) == 20_633_827
        assert count_parameters(EDVR(num_frame=7, **large)) == 20_699_363


@pytest.mark.parametrize("name", ["edvr_tsa", "edvr_notsa", "edvr_predeblur"])
def test_golden_output(golden, name):
    file = golden(name)
    names = (
        "num_in_ch",
        "num_out_ch",
        "num_feat",
        "num_frame",
        "deformable_groups",
        "num_extract_block",
        "num_reconstruct_block",
        "hr_in",
        "with_predeblur",
        "with_tsa",
    )
    options = {k: file.hp(k) for k in names}
    center = file.hp("center_frame_idx")
    net = EDVR(**options, center_frame_idx=None if center < 0 else center).eval()
    net.load_state_dict(file.state())
    with torch.no_grad():
        assert file.near(net(file.input("x")), "sr")


def small(**options):
    return EDVRSlim(
        **{
            "num_feat": 8,
            "num_frame": 3,
            "num_hr_feat": 8,
            "deformable_groups": 2,
            "num_extract_block": 1,
            "num_reconstruct_block": 1,
            **options,
        }
    )


def test_slim_of_full_width_is_basicsr():
    slim = small(num_hr_feat=64, base="bilinear").eval()
    full = EDVR(num_feat=8, num_frame=3, deformable_groups=2, num_extract_block=1, num_reconstruct_block=1).eval()
    full.load_state_dict(slim.state_dict())
    x = torch.rand(1, 3, 3, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(slim(x), full(x))


@pytest.mark.parametrize("with_tsa", [True, False])
def test_slim_has_taps_gradients_and_a_bicubic_base(with_tsa, taps_seen):
    net = small(with_tsa=with_tsa)
    traits = traits_of(net, 4)
    assert (traits.mode, traits.num_frame, traits.multiple) == ("window", 3, 4)
    seen = taps_seen(net, traits)
    x = torch.rand(2, 3, 3, 8, 12)
    out = net(x)
    assert seen == {"f_sr": (2, 8, 32, 48), "f_lr": (2, 8, 8, 12)}
    out.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    with torch.no_grad():
        net.conv_last.weight.zero_()
        net.conv_last.bias.zero_()
        torch.testing.assert_close(net(x), upsample_bicubic(x[:, 1], 4), atol=1e-5, rtol=0)


def test_bad_base_is_refused():
    with refuses("EDVRSlim", "base", near="bicubic"):
        small(base="bicubix")
