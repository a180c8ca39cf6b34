"""The image networks: golden outputs, published parameter counts, taps, traits, transposed convolutions."""

import zlib

import numpy as np
import pytest
import torch
from torch import nn

from kdsr_arch.archs import san_arch
from kdsr_arch.archs.arch_util import SubPixelDeconv
from kdsr_arch.archs.carn_arch import CARN, CARN_M
from kdsr_arch.archs.ecbsr_arch import PlainSR
from kdsr_arch.archs.etds_arch import ETDS
from kdsr_arch.archs.fsrcnn_arch import FSRCNN
from kdsr_arch.archs.haesr_arch import HAESR
from kdsr_arch.archs.idn_arch import IDN
from kdsr_arch.archs.imdn_arch import IMDN
from kdsr_arch.archs.pisr_arch import PISRTeacher
from kdsr_arch.archs.plainusr_arch import PlainUSR
from kdsr_arch.archs.rcan_arch import EDSRTapped, RCANTapped, fakd_groups
from kdsr_arch.archs.san_arch import SAN
from kdsr_arch.archs.smfanet_arch import SMFANet
from kdsr_arch.archs.span_arch import SPAN
from kdsr_arch.archs.srkd_arch import SNSR, TNSR
from kdsr_arch.archs.vdsr_arch import VDSR
from kdsr_arch.convert.published import SOURCES, convert_state
from kdsr_arch.distill.taps import Recorder
from kdsr_arch.errors import UserError
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.losses.vid_loss import PISRLoss
from kdsr_arch.registry import build
from tests.helpers.messages import refuses


def golden_state(z):
    """The official state dict of a vector file: stored, or by the rule of the vectors' own description."""
    state = {k[3:]: z[k] for k in z.files if k.startswith("sd/")}
    seed = str(z["hp/weight_seed"]) if "hp/weight_seed" in z.files else ""
    for name in (k[6:] for k in z.files if k.startswith("shape/")):
        if name not in state:
            rng = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()) & 0xFFFFFFFF)
            a, b = z[f"rule/{name}"]
            state[name] = (a + b * (2.0 * rng.random_sample(tuple(z[f"shape/{name}"])) - 1.0)).astype(np.float32)
    return {k: torch.from_numpy(np.array(v)) for k, v in state.items()}


def golden_net(z, source, **options):
    """Our network with a vector file's weights, through the converter, and what no weight tells of it."""
    done = convert_state(SOURCES[source], golden_state(z))
    told = {"hp/res_scale": "res_scale", "hp/rgb_range": "img_range"}
    options |= {ours: z[theirs].item() for theirs, ours in told.items() if theirs in z.files}
    net = build("network", {**done.network, **options}, "network")
    net.load_state_dict(done.params)
    return net.eval()


def range_of(z):
    """What white is in a file's images."""
    return float(z["hp/rgb_range"]) if "hp/rgb_range" in z.files else 1.0


def close(z, key, got, factor=2e-5):
    reference, limit = z[f"out/{key}"], factor * float(z[f"hp/absmax/{key}"])
    assert got.shape == reference.shape
    assert np.abs(got.detach().numpy() - reference).max() <= limit


def check_output(z, net, key="sr"):
    x, img_range = torch.from_numpy(z["in/x"]), range_of(z)
    close(z, key, net(x / img_range) * img_range)
    close(z, key, net.double()(x.double() / img_range).float() * img_range)
    net.float()


@pytest.mark.parametrize("name,source", [
    ("rcan_x2", "rcan"), ("rcan_x4", "rcan"), ("rcan_fakd", "rcan-fakd"), ("edsr_fakd", "edsr-fakd"), ("san", "san"),
    ("san_fakd", "san"), ("imdn", "imdn"), ("vdsr", "vdsr"),
])  # fmt: skip
def test_golden_outputs(vectors, name, source):
    z = vectors(name)
    assert sum(v.numel() for v in golden_state(z).values()) == int(z["hp/n_state_values"])
    check_output(z, golden_net(z, source))


@pytest.mark.parametrize("name,source", [
    ("carn_x2", "carn"), ("carn_x4", "carn"), ("carn_multi", "carn"), ("carn_m_x2", "carn-m"), ("carn_m_x4", "carn-m"),
])  # fmt: skip
def test_golden_carn(vectors, name, source):
    z = vectors(name)
    for key in [k[4:] for k in z.files if k.startswith("out/sr_x")]:
        check_output(z, golden_net(z, source, scale=int(key[-1])), key)


def test_golden_fsrcnn(vectors):
    z = vectors("fsrcnn_yjn870")
    check_output(z, golden_net(z, "fsrcnn", scale=int(z["hp/scale"])))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_golden_idn(vectors, scale):
    """The stored output is the residual, whose first row is HR row scale - 1."""
    z = vectors(f"idn_x{scale}")
    net = golden_net(z, "idn-caffe", scale=scale)
    with Recorder(net, ["upsample"]) as taps:
        sr = net(torch.from_numpy(z["in/x"]))
    close(z, "upsample", taps["upsample"][0][..., scale - 1 :, scale - 1 :])
    assert sr.shape[-1] == z["in/x"].shape[-1] * scale


def test_golden_basicsr_rcan(vectors):
    """Weights of BasicSR's RCAN are weights of ours."""
    z = vectors("rcan_basicsr")
    told = ("num_feat", "num_group", "num_block", "squeeze_factor", "upscale", "res_scale", "img_range")
    net = RCANTapped(**{name: z[f"hp/{name}"].item() for name in told}).eval()
    net.load_state_dict(golden_state(z))
    check_output(z, net)


@pytest.mark.parametrize("name,source", [("rcan_fakd", "rcan-fakd"), ("edsr_fakd", "edsr-fakd"), ("san_fakd", "san")])
def test_fakd_taps(vectors, name, source):
    """The features FAKD distils, long skip included where its code adds it in place."""
    z = vectors(name)
    net = golden_net(z, source)
    paths = [net.traits.taps[f"fakd_{i}"] for i in range(4)]
    with Recorder(net, paths) as taps:
        net(torch.from_numpy(z["in/x"]) / range_of(z))
    for i, path in enumerate(paths):
        close(z, f"feat{i}", taps[path][0])


def test_body_end_is_without_the_long_skip():
    net = RCANTapped(num_feat=8, num_group=2, num_block=1, squeeze_factor=4, upscale=2)
    taps = net.traits.taps
    with Recorder(net, [taps["head"], taps["body_end"], taps["body_end_skip"]]) as recorded:
        net(torch.rand(1, 3, 6, 6))
    head, end, skip = (recorded[taps[name]][0] for name in ("head", "body_end", "body_end_skip"))
    torch.testing.assert_close(end + head, skip)


@pytest.mark.parametrize("blocks,ends", [(32, (9, 20)), (16, (4, 9)), (5, (0, 2)), (4, (0, 1)), (1, (0, 0))])
def test_fakd_taps_of_edsr_are_the_ends_of_its_thirds(blocks, ends):
    """FAKD's code ends them after int(n / 3) and int(2 n / 3) blocks."""
    taps = EDSRTapped(num_feat=2, num_block=blocks, upscale=2).traits.taps
    assert (taps["fakd_1"], taps["fakd_2"]) == tuple(f"body.{end}" for end in ends)


def test_fakd_groups():
    assert [fakd_groups(n) for n in (20, 10, 7, 6, 3, 2, 1)] == [(2, 6)] * 3 + [(1, 4), (0, 2), (0, 1), (0, 0)]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_golden_pisr(vectors, scale):
    z = vectors(f"pisr_net_x{scale}")
    state = {k[3:]: torch.from_numpy(z[k]) for k in z.files if k.startswith("sd/")}
    sides = {side: {k.removeprefix(side + "/"): v for k, v in state.items() if k.startswith(side)}
             for side in ("teacher", "student")}  # fmt: skip
    nets = {}
    for side, source in (("teacher", "pisr-teacher"), ("student", "pisr")):
        done = convert_state(SOURCES[source], sides[side])
        nets[side] = build("network", done.network, "network", offer={"scale": scale})
        nets[side].load_state_dict(done.params)
    hr, lr = torch.from_numpy(z["in/HR"]), torch.from_numpy(z["in/LR"])
    tapped = {"teacher": ("encoder", "mapping", "expanding"), "student": ("mapping", "expanding")}
    for side, image, taps in zip(nets, (hr, lr), tapped.values(), strict=True):
        net = nets[side]
        with Recorder(net, [net.traits.taps[t] for t in taps]) as recorded:
            close(z, f"{side}/hr", net(image))
        for tap in taps:
            close(z, f"{side}/{tap}", recorded[net.traits.taps[tap]][0])
    encoded = nets["teacher"].encoder(hr)
    step1 = (nets["teacher"](hr) - hr).abs().mean() + 1e-4 * (encoded - lr).abs().mean()
    np.testing.assert_allclose(step1.item(), z["out/step1_loss"], rtol=1e-5)
    nets["student"].load_state_dict(nets["teacher"].decoder.state_dict())
    reference = z["out/student_initialised_from_teacher_hr"]
    np.testing.assert_allclose(nets["student"](lr).detach(), reference, atol=2e-5 * np.abs(reference).max())


def test_pisr_distillation_loss(vectors):
    z = vectors("pisr_net_x2")
    s, t = (torch.from_numpy(z[f"out/{side}/expanding"]) for side in ("student", "teacher"))
    loss = PISRLoss()
    loss.setup([s.shape], [t.shape])
    prefix = "sd/student/vid_module_dict.expanding_"
    state = {k.removeprefix(prefix): torch.from_numpy(z[k]) for k in z.files if k.startswith(prefix)}
    loss.estimators[0].load_state_dict(state)
    np.testing.assert_allclose(loss([s], [t]).item(), z["out/step2_distill_loss_lambda2_1"], rtol=1e-5)


def test_pisr_teacher_around_any_network():
    for decoder in ({"type": "CARN_M", "num_feat": 8, "group": 2}, {"type": "VDSR", "num_layer": 3, "num_feat": 4},
                    {"type": "EDSRTapped", "num_feat": 4, "num_block": 1}):  # fmt: skip
        net = PISRTeacher(decoder, scale=2)
        channels = 1 if net.traits.color == "y" else 3
        assert net.traits.input == "gt"
        assert net(torch.rand(1, channels, 8, 12)).shape == (1, channels, 8, 12)
    with refuses("PISRTeacher", "decoder"):
        PISRTeacher({"d": 56})
    with refuses("decoder", "'FSRCN'", near="FSRCNN"):
        PISRTeacher({"type": "FSRCN"})


def parameters(net):
    return sum(p.numel() for p in net.parameters())


COUNTS = [
    (lambda: TNSR(2), 740_225), (lambda: TNSR(3), 739_777), (lambda: TNSR(4), 805_825),
    (lambda: SNSR(2), 16_065), (lambda: SNSR(3), 15_617), (lambda: SNSR(4), 81_665),
    (lambda: FSRCNN(4), 12_644), (lambda: FSRCNN(2, prelu="channel"), 12_809),
    (lambda: VDSR(), 664_704), (lambda: VDSR(bias=True), 665_921),
    (lambda: IDN(2), 552_769), (lambda: IDN(4), 552_769),
    (lambda: IDN(2, "rgb"), 579_276), (lambda: IDN(3, "rgb"), 587_931), (lambda: IDN(4, "rgb"), 600_048),
    (lambda: CARN(4, multi_scale=True), 1_591_963), (lambda: CARN(2), 964_187), (lambda: CARN(3), 1_148_827),
    (lambda: CARN(4), 1_111_899), (lambda: CARN_M(2, multi_scale=True), 414_811), (lambda: CARN_M(2), 257_051),
    (lambda: CARN_M(3), 303_451), (lambda: CARN_M(4), 294_171),
    (lambda: PISRTeacher({"type": "FSRCNN"}), 98_728), (lambda: PISRTeacher({"type": "FSRCNN"}).encoder, 86_084),
    (lambda: SAN(4), 15_862_584), (lambda: SAN(4, num_group=6), 4_997_618),
    (lambda: IMDN(2), 694_404), (lambda: IMDN(3), 703_059), (lambda: IMDN(4), 715_176),
    (lambda: PlainSR(4), 16_768), (lambda: PlainSR(4, num_feat=32), 51_920), (lambda: PlainSR(2), 11_548),
    (lambda: SPAN(4, 28), 150_688), (lambda: SPAN(4), 426_288), (lambda: ETDS(4).tail, 6_960),
    (lambda: PlainUSR(4), 68_612), (lambda: PlainUSR(2, (16, 8), "middle"), 13_628),
    (lambda: HAESR(4), 352_869),
    (lambda: SMFANet(4), 197_328), (lambda: SMFANet(4, 48, 12), 495_888), (lambda: SMFANet(2, 48, 12), 480_300),
]  # fmt: skip


@pytest.mark.parametrize("make,count", COUNTS, ids=[str(c) for _, c in COUNTS])
def test_parameter_counts(make, count):
    assert parameters(make()) == count


def test_fsrcnn_weights_alone():
    net = FSRCNN()
    assert sum(m.weight.numel() for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))) == 12_464


MEAN_SHIFT = 24  # the published counts include two frozen color shifts that BasicSR's networks make themselves


@pytest.mark.parametrize("blocks,counts", [(20, (15_444_667, 15_629_307, 15_592_379, 15_740_091)),
                                           (6, (5_023_627, 5_208_267, 5_171_339, 5_319_051))])  # fmt: skip
def test_rcan_parameter_counts(blocks, counts):
    for scale, count in zip((2, 3, 4, 8), counts, strict=True):
        with torch.device("meta"):
            net = RCANTapped(num_block=blocks, upscale=scale)
        assert parameters(net) + MEAN_SHIFT == count


def test_edsr_parameter_counts():
    with torch.device("meta"):
        teacher = EDSRTapped(num_feat=256, num_block=32, res_scale=0.1)
    assert round(parameters(teacher) / 1e6, 2) == 43.09
    assert round(parameters(EDSRTapped()) / 1e6, 3) == 1.518


SMALL = [
    TNSR(2, num_feat=4, num_block=3), SNSR(3, num_feat=4), SNSR(4, num_feat=4), FSRCNN(3, d=6, s=4, m=2),
    VDSR(2, num_feat=4, num_layer=4), IDN(3, num_feat=16, num_block=2), IDN(2, "rgb", num_feat=16, num_block=1),
    CARN(3, num_feat=4), CARN_M(4, num_feat=8, group=2), EDSRTapped(num_feat=4, num_block=3, upscale=3),
    SAN(2, 3, 1, 16, 4), IMDN(3, 16, 2), SMFANet(3, 8, 2), HAESR(2, 16),
    PlainSR(3, 1, 8, 2, "ecb", "relu", "bicubic"),
    PlainSR(2, 3, 8, 0, "conv3xc", "prelu", "none"), ETDS(2, 1, 8, 2, 3), SPAN(3, 8, 2, "conv3xc"),
    PlainUSR(3, (8, 4), block="ecb"), PlainUSR(2, (8, 4), "middle"),
    RCANTapped(num_feat=8, num_group=3, num_block=1, squeeze_factor=4),
]  # fmt: skip


@pytest.mark.parametrize("net", SMALL, ids=lambda n: type(n).__name__)
def test_traits_and_taps(net):
    """Output size and channels, every tap fires, f_sr is of HR size and f_lr of LR size, gradients are complete."""
    traits = traits_of(net)
    channels = 1 if traits.color == "y" else 3
    h, w = max(7, traits.min_size), max(10, traits.min_size)
    factor = traits.scale if traits.upsampled_input else 1
    paths = sorted(set(traits.taps.values()))
    with Recorder(net, paths) as taps:
        y = net(torch.rand(2, channels, h * factor, w * factor))
    assert y.shape == (2, channels, h * traits.scale, w * traits.scale)
    if "f_lr" in traits.taps:
        assert taps[traits.taps["f_lr"]][0].shape[-2:] == (h, w)
    if "f_sr" in traits.taps:
        assert taps[traits.taps["f_sr"]][0].shape[-2:] == y.shape[-2:]
    (y - 0.3).abs().sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_srkd_taps():
    assert [TNSR(num_feat=4).traits.taps[f"srkd_{i}"] for i in (1, 2, 3)] == ["blocks.3", "blocks.6", "blocks.9"]
    assert [SNSR(num_feat=4).traits.taps[f"srkd_{i}"] for i in (1, 2, 3)] == ["blocks.0", "blocks.1", "blocks.2"]


@pytest.mark.parametrize("k,s,p,op", [(9, 2, 4, 1), (9, 3, 4, 2), (9, 4, 4, 3), (17, 2, 8, 0), (17, 3, 8, 0),
                                      (17, 4, 8, 0), (4, 2, 1, 0), (3, 3, 0, 0), (5, 3, 0, 1), (2, 4, 0, 0),
                                      (7, 2, 5, 0)])  # fmt: skip
@pytest.mark.parametrize("size", [(5, 8), (1, 1), (3, 2)])
def test_deconv_equals_pytorch(k, s, p, op, size):
    ours = SubPixelDeconv(3, 2, k, s, p, op).double()
    theirs = nn.ConvTranspose2d(3, 2, k, s, p, op).double()
    assert {n: v.shape for n, v in ours.state_dict().items()} == {n: v.shape for n, v in theirs.state_dict().items()}
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    if min((n - 1) * s - 2 * p + k + op for n in size) < 1:
        pytest.skip("no output")
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outs = [net(i) for net, i in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outs)
    seed = torch.randn_like(outs[0])
    grads = [torch.autograd.grad(o, [i, *net.parameters()], seed)
             for o, i, net in zip(outs, inputs, (ours, theirs), strict=True)]  # fmt: skip
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_san_under_autocast_keeps_its_second_order_statistics_in_float32(dtype, bound, monkeypatch):
    torch.manual_seed(0)
    net, x = SAN(2, 2, 1, 64), torch.rand(1, 3, 24, 24)
    seen = []
    root = san_arch.matrix_square_root
    monkeypatch.setattr(san_arch, "matrix_square_root", lambda a: seen.append(a.dtype) or root(a))
    with torch.autocast("cpu", dtype):
        y = net(x)
    assert (y.float() - net(x)).abs().max() < bound
    assert set(seen) == {torch.float32}


def test_the_root_of_a_covariance_overflows_in_float16():
    torch.manual_seed(0)
    features = 255 * torch.randn(1, 64, 24, 24)
    exact = san_arch.matrix_square_root(san_arch.channel_covariance(features.double()))
    single = san_arch.matrix_square_root(san_arch.channel_covariance(features))
    assert (single - exact).norm() / exact.norm() < 1e-5
    assert not torch.isfinite(san_arch.matrix_square_root(san_arch.channel_covariance(features.half()))).all()


def test_san_on_flat_input():
    net = SAN(2, 2, 1, 16, 4)
    flat = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    net(flat).sum().backward()
    assert torch.isfinite(flat.grad).all()


def test_scales_that_cannot_be():
    for make in (lambda: SNSR(5), lambda: CARN(8), lambda: IDN(2, "gray"), lambda: FSRCNN(2, prelu="none")):
        with pytest.raises(UserError):
            make()
