"""Networks whose modules look at sizes or values leave as graphs that follow any size."""

import pytest
import torch
import yaml
from basicsr.archs.arch_util import DCNv2Pack
from basicsr.archs.basicvsrpp_arch import SecondOrderDeformableAlignment
from basicsr.archs.spynet_arch import SpyNet
from basicsr.archs.swinir_arch import SwinTransformerBlock

from kdsr_arch.export.form import prepare
from kdsr_arch.export.formats import FORMATS, SIZES
from kdsr_arch.export.graphs import graph_form
from kdsr_arch.infer.open import Opened
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.ops.exporting import export_form
from kdsr_arch.registry import build

NETWORKS = {
    "EDVRSlim": "{type: EDVRSlim, num_feat: 8, num_hr_feat: 4, num_frame: 3, deformable_groups: 2, "
    "num_extract_block: 1, num_reconstruct_block: 1}",
    "BasicVSR": "{type: BasicVSR, num_feat: 4, num_block: 1}",
    "SwinIR": "{type: SwinIR, upscale: 4, img_size: 24, window_size: 8, depths: [2], num_heads: [2], embed_dim: 8, "
    "upsampler: pixelshuffledirect}",
    "VESPCN": "{type: VESPCN, num_feat: 4, num_hr_feat: 4, num_block: 1, num_flow_feat: 4, base: bicubic}",
    "BasicVSRPlusPlus": "{type: BasicVSRPlusPlus, mid_channels: 16, num_blocks: 1}",
    "TDAN": "{type: TDAN, num_frame: 3, num_feat: 4, num_extract_block: 1, num_block: 1, deformable_groups: 2}",
    "RSDN": "{type: RSDN, num_feat: 4, num_block: 1}",
    "RLSP": "{type: RLSP, num_feat: 4, num_block: 1, motion: true, num_flow_feat: 4}",
    "PFNL": "{type: PFNL, num_frame: 3, num_feat: 4, num_block: 1}",
    "DRVSR": "{type: DRVSR, num_feat: 2, num_flow_feat: 2}",
    "LTDVSRRebuild": "{type: LTDVSRRebuild, num_feat: 4, num_flow_feat: 2}",
}


def shaken(net, amount=0.05):
    """Away from zero offsets, zero flow and symmetries."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        parameter.data += amount * torch.randn_like(parameter)
    return net.eval().requires_grad_(False)


def prepared(name, tmp_path, frames=None, amount=0.05):
    spec = yaml.safe_load(NETWORKS[name])
    net = shaken(build("network", spec, "network_g"), amount)
    return prepare(Opened(net, traits_of(net, 4), spec, tmp_path / "net.pth", ""), frames=frames)


def test_alignments_sample_as_their_modules_do():
    pack = shaken(DCNv2Pack(8, 8, 3, padding=1, deformable_groups=2), 0.3)
    second = shaken(SecondOrderDeformableAlignment(16, 8, 3, padding=1, deformable_groups=4), 0.3)
    forms = graph_form(torch.nn.ModuleList([pack, second]))
    for size in ((9, 14), (20, 7)):
        x, feat = torch.randn(2, 8, *size), torch.randn(2, 8, *size)
        torch.testing.assert_close(forms[0](x, feat), pack(x, feat), atol=1e-4, rtol=1e-4)
        inputs = (torch.randn(2, 16, *size), torch.randn(2, 24, *size), *(3 * torch.randn(2, 2, *size) for _ in "ab"))
        torch.testing.assert_close(forms[1](*inputs), second(*inputs), atol=1e-4, rtol=1e-4)


def test_flow_and_attention_are_those_of_their_modules():
    flow, block = shaken(SpyNet(), 0.02), shaken(SwinTransformerBlock(8, (16, 16), 2, window_size=8, shift_size=4), 0.2)
    plain = shaken(SwinTransformerBlock(8, (16, 16), 2, window_size=8), 0.2)
    forms = graph_form(torch.nn.ModuleList([flow, block, plain]))
    for size in ((33, 40), (64, 97)):
        one, other = torch.rand(2, 3, *size), torch.rand(2, 3, *size)
        wanted = flow(one, other)
        assert wanted.abs().max() > 0.5
        torch.testing.assert_close(forms[0](one, other), wanted, atol=1e-4, rtol=1e-4)
    for height, width in ((16, 16), (24, 40)):
        x = torch.randn(2, height * width, 8)
        torch.testing.assert_close(forms[1](x, (height, width)), block(x, (height, width)), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(forms[2](x, (height, width)), plain(x, (height, width)), atol=1e-5, rtol=1e-4)


def test_only_a_network_that_needs_it_is_changed_and_only_in_a_copy():
    plain = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3))
    assert graph_form(plain) is plain
    net = torch.nn.Sequential(SpyNet())
    assert type(graph_form(net)[0]) is not SpyNet and type(net[0]) is SpyNet


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"BasicVSRPlusPlus"}))
def test_the_form_of_a_graph_computes_what_the_network_does(name, tmp_path):
    made = prepared(name, tmp_path, frames=2)
    lq = made.example(70, 41, seed=9)
    with export_form():
        assert (made.module(lq) - made.reference(lq)).abs().max() < 1e-5


def test_a_mirrored_clip_needs_no_branch_in_a_graph(tmp_path):
    made = prepared("BasicVSRPlusPlus", tmp_path, frames=2, amount=0.02)
    one = made.example(64, 64, seed=2)[:, :1]
    clip = torch.cat([one, one], 1)
    wanted = made.reference(clip)
    assert made.reference.net.is_mirror_extended
    with export_form():
        made_as_graph = made.module(clip)
    assert not made.module.net.is_mirror_extended
    torch.testing.assert_close(made_as_graph, wanted, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["EDVRSlim", "BasicVSR", "SwinIR", "TDAN", "RSDN", "RLSP", "PFNL", "DRVSR", "LTDVSRRebuild"]
)
def test_onnx_at_three_sizes(name, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    amount = 0.01 if name == "TDAN" else 0.05  # its output is not to grow beyond images
    compared = FORMATS["onnx"](prepared(name, tmp_path, frames=2, amount=amount), tmp_path / "net.onnx")
    assert len({deviation.size for deviation in compared}) == len(SIZES) and max(d.largest for d in compared) < 1e-5


@pytest.mark.slow
def test_exported_program_of_motion_compensation(tmp_path):
    made = prepared("VESPCN", tmp_path)
    FORMATS["exported"](made, tmp_path / "net.pt2")
    back = torch.export.load(tmp_path / "net.pt2").module()
    for size in ((9, 14), (40, 52)):
        lq = made.example(*size, seed=4)
        assert (back(lq) - made.reference(lq)).abs().max() < 1e-5
