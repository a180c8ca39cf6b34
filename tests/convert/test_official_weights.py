"""Weights of public origin reproduce their PSNR on Set5, and files of something else are told so."""

import argparse
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import yaml

from kdsr_arch.archs.fsrcnn_arch import FSRCNN
from kdsr_arch.archs.vdsr_arch import VDSR
from kdsr_arch.commands import convert as command
from kdsr_arch.convert.published import SOURCES, convert_file, convert_state, looks_like, option_text
from kdsr_arch.evaluate import tester
from kdsr_arch.infer.open import open_network, read_weights
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.metrics.psnr_metric import psnr
from kdsr_arch.options import load_options
from kdsr_arch.registry import build
from tests.helpers import ROOT
from tests.helpers.data import data_folder
from tests.helpers.images import write_textures
from tests.helpers.messages import refuses


def expected():
    """(file, source, scale, PSNR, tolerance) of every figure in weights/expected.json."""
    folder = data_folder()
    if folder is None or not (folder / "weights" / "expected.json").is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason="no weights/expected.json: set KDSR_DATA"))]
    folder = folder / "weights"
    entries = json.loads((folder / "expected.json").read_text())["weights"]
    return [
        pytest.param((folder / e["file"], e["source"], int(scale), value, e["tolerance_db"]),
                     id=f"{e['source']}-x{scale}")
        for e in entries for scale, value in e["psnr"].items()
    ]  # fmt: skip


# Set5, measured with the authors' code; of ECBSR x4 and ETDS's FSRCNN with ours (published: 30.87, 31.24 and 30.76)
NEWER = [
    ("SMFANet/SMFANet_DF2K_x4.pth", "smfanet", 4, 32.25), ("SMFANet/SMFANet_plus_DF2K_x4.pth", "smfanet", 4, 32.51),
    ("SMFANet/SMFANet_plus_DF2K_x2.pth", "smfanet", 2, 38.19),
    ("HAESR/HAESR_x4.pth", "haesr", 4, 32.46),
    ("ECBSR/ECBSR_M4C16_x4.pth", "ecbsr", 4, 30.89), ("ECBSR/ECBSR_M4C16_x2.pth", "ecbsr", 2, 37.17),
    ("ECBSR/ECBSR_M4C32_x4.pth", "ecbsr", 4, 31.25), ("ECBSR/ECBSR_M4C32_x2.pth", "ecbsr", 2, 37.40),
    ("ETDS/ETDS_M5C16_x4.pth", "etds", 4, 30.89), ("ETDS/ETDS_M5C16_x2.pth", "etds", 2, 37.18),
    ("ETDS/ETDS_M4C32_x4.pth", "etds", 4, 31.21), ("ETDS/ETDS_M4C32_x2.pth", "etds", 2, 37.39),
    ("ETDS/ETDS_M6C32_x4.pth", "etds", 4, 31.42), ("ETDS/ETDS_M6C32_x2.pth", "etds", 2, 37.56),
    ("ETDS/ETDS_M7C48_x4.pth", "etds", 4, 31.71), ("ETDS/ETDS_M7C48_x2.pth", "etds", 2, 37.66),
    ("ETDS/FSRCNN_etds_x4.pth", "fsrcnn", 4, 30.78), ("SPAN/SPAN_ntire26_x4.pth", "span", 4, 31.74),
    ("PlainUSR/PlainUSRU_Rep_x4.pth", "plainusr", 4, 30.77), ("PlainUSR/PlainUSRU_Rep_x2.pth", "plainusr", 2, 37.10),
    ("PlainUSR/PlainUSRS_Rep_x4.pth", "plainusr", 4, 31.56), ("PlainUSR/PlainUSRS_Rep_x2.pth", "plainusr", 2, 37.64),
]  # fmt: skip


def read(path):
    return torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255


def to_uint8(x):
    image = (x.clamp(0, 1) * 255).round().byte()[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(image[..., ::-1])


def set5_psnr(net, scale, root):
    """Mean PSNR of Y, crop = scale, of images restored in full color and rounded to 8 bits."""
    runner = Runner(net.eval(), traits_of(net, scale))
    values = []
    for path in sorted((root / "HR").glob("*.png")):
        lq = next((root / "LR_bicubic" / f"X{scale}").glob(f"{path.stem}*.png"))
        sr = to_uint8(runner.restore(read(lq)))
        gt = cv2.imread(str(path))[: sr.shape[0], : sr.shape[1]]
        values.append(psnr(sr, gt, crop_border=scale, test_y_channel=True))
    return float(np.mean(values))


@pytest.mark.slow
@pytest.mark.parametrize("case", expected())
def test_psnr_on_set5(case, shared_data):
    path, source, scale, value, tolerance = case
    done = convert_file(source, path)
    net = build("network", done.network, "network", offer={"scale": scale})
    net.load_state_dict(done.params)
    with torch.inference_mode():
        assert set5_psnr(net, scale, shared_data / "sisr_test" / "Set5") == pytest.approx(value, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("case", NEWER, ids=str)
def test_newer_weights_on_set5(case, shared_data):
    file, source, scale, value = case
    path = shared_data / "weights" / file
    if not path.is_file():
        pytest.skip(f"no {path}")
    assert looks_like(read_weights(path)) == [source]
    test_psnr_on_set5((path, source, scale, value, 0.01), shared_data)


OFFICIAL = [
    ("carn_m_official", "carn-m", "CARN-M/carn_m.pth"), ("vdsr_official", "vdsr", "VDSR/vdsr_state_dict.pth"),
    ("imdn_official_x4", "imdn", "IMDN/IMDN_x4.pth"), ("idn_official_x4", "idn-caffe", "IDN/IDN_x4_caffe.npz"),
]  # fmt: skip


@pytest.mark.parametrize("source,file", [("vespcn-hwio", "VESPCN_no_motion_x2/vespcn_x2_hwio.npz"),
                                         ("vsrnet-hwio", "VSRNet_x2/vsrnet_x2_hwio.npz")])  # fmt: skip
def test_video_weights_fit(shared_data, source, file):
    done = convert_file(source, shared_data / "weights" / file)
    build("network", done.network, "network").load_state_dict(done.params)


def test_vespcn_with_motion_fits(vectors):
    z = vectors("vespcn_loseal")
    shapes = {k[6:]: tuple(z[k]) for k in z.files if k.startswith("shape/")}
    shapes |= {k[3:]: z[k].shape for k in z.files if k.startswith("sd/")}  # of a file that stores its weights
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert looks_like(state) == ["vespcn-loseal"]
    network = convert_state(SOURCES["vespcn-loseal"], state).network
    assert network == {"type": "VESPCN", "num_frame": int(z["hp/depth"]), "num_feat": 64, "num_block": 3,
                       "scale": int(z["hp/scale"]), "color": {1: "y", 3: "rgb"}[int(z["hp/channel"])],
                       "coarse_gain": 1}  # fmt: skip


@pytest.mark.parametrize("name,network,told", [
    ("tdan", {"type": "TDAN", "num_feat": 64, "num_extract_block": 5, "num_block": 10},
     {"num_frame": "num_frame", "deformable_groups": "num_deformable_groups"}),
    ("rsdn", {"type": "RSDN"}, {"num_feat": "nf", "num_block": "num_blocks"}),
    ("pfnl", {"type": "PFNL", "num_hr_feat": 12},
     {"num_frame": "num_frame", "num_feat": "mf", "num_block": "num_block"}),
    ("drvsr", {"type": "DRVSR", "num_frame": 3, "num_feat": 32, "num_flow_feat": 24}, {}),
    ("ltdvsr", {"type": "LTDVSRRebuild", "num_feat": 64, "num_flow_feat": 32}, {}),
])  # fmt: skip
def test_files_of_video_networks_fit(vectors, tmp_path, name, network, told):
    z = vectors(name)
    network = network | {ours: z[f"hp/{theirs}"].item() for ours, theirs in told.items()}
    shapes = {k[6:]: tuple(z[k]) for k in z.files if k.startswith("shape/")}
    arrays = {k: np.full(shape, n, np.float32) for n, (k, shape) in enumerate(shapes.items())}
    if name in ("tdan", "rsdn"):
        path = tmp_path / "a.pth"
        torch.save({k: torch.from_numpy(value) for k, value in arrays.items()}, path)
    else:  # with what a checkpoint holds besides
        path, extra = tmp_path / "a.npz", {f"{k}/Adam": value for k, value in arrays.items()}
        np.savez(path, global_step=np.int64(7), **{f"{k}:0": value for k, value in arrays.items()}, **extra)
    assert looks_like(read_weights(path)) == [name]
    done = convert_file(name, path)
    assert done.network == network and done.scale == 4
    assert sorted(float(v.flatten()[0]) for v in done.params.values()) == [float(n) for n in range(len(arrays))]
    options = yaml.safe_load(option_text(done, path))  # on what it was published for, the frames whole
    assert options["datasets"]["test_1"]["degradation"] == ("BI" if name == "tdan" else "BD")
    assert options["val"]["metrics"]["psnr"]["crop_border"] == 0
    gone = (
        dict(list(read_weights(path).items())[:-1])
        if name in ("tdan", "rsdn")
        else {k: v for k, v in read_weights(path).items() if not k.startswith(list(arrays)[-1])}
    )
    with refuses(SOURCES[name].origin.split(",")[0]):
        convert_state(SOURCES[name], gone)


def test_what_weights_do_not_tell_is_said(vectors, tmp_path, capsys):
    z = vectors("drvsr")
    np.savez(tmp_path / "a.npz", **{k[6:]: np.zeros(z[k], np.float32) for k in z.files if k.startswith("shape/")})
    assert convert(tmp_path, "drvsr", tmp_path / "a.npz", "-o", tmp_path / "ours.pth") == 0
    assert f"note: {SOURCES['drvsr'].note}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", ["pfnl", "drvsr", "ltdvsr"])
def test_variables_of_another_shape_are_refused(vectors, name):
    z = vectors(name)
    with refuses(SOURCES[name].origin.split(",")[0]):
        convert_state(SOURCES[name], {k[6:]: torch.zeros(5) for k in z.files if k.startswith("shape/")})


def loseal_names(state):
    """Entries of our VESPCN under LoSealL's names, each written by hand; the frames' order stays ours."""
    theirs = {"fusion.conv": "sr.entry.body.0", "conv_up": "sr.conv.body.0", "conv_last": "sr.exit.body.0"}
    renamed = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        first, *rest = layer.split(".")
        if first == "body":
            layer = f"sr.{layer}"
        if first == "motion":
            layer = f"mc.flownet.{rest[0]}_flow.{int(rest[1]) // 2}.0"
        renamed[f"{theirs.get(layer, layer)}.{kind}"] = value
    return renamed


@pytest.mark.parametrize("color", ["y", "rgb"])
@pytest.mark.parametrize("num_frame", [3, 5])
def test_vespcn_of_other_colors_and_windows(color, num_frame):
    """LoSealL's file has the center frame's weights last; the converted network restores what ours does."""
    torch.manual_seed(0)
    network = {"type": "VESPCN", "scale": 2, "num_frame": num_frame, "color": color, "coarse_gain": 1}
    ours, channels = build("network", network, "network").eval(), 3 if color == "rgb" else 1
    theirs = loseal_names(ours.state_dict())
    assert len(theirs) == len(ours.state_dict())
    order = [*range(num_frame // 2), *range(num_frame // 2 + 1, num_frame), num_frame // 2]
    entry = theirs["sr.entry.body.0.weight"].unflatten(1, (num_frame, channels))
    theirs["sr.entry.body.0.weight"] = entry[:, order].flatten(1, 2)
    done = convert_state(SOURCES["vespcn-loseal"], theirs)
    assert done.network == {**network, "num_feat": 64, "num_block": 3}
    shorter = {name.replace(".body.0.", ".") if name.split(".")[1] != "body" else name: v for name, v in theirs.items()}
    shorter = {name.replace("mc.flownet.", "mc."): value for name, value in shorter.items()}
    assert looks_like(shorter) == ["vespcn-egvsr"]
    for source, state in (("vespcn-loseal", theirs), ("vespcn-egvsr", shorter)):
        params = convert_state(SOURCES[source], state).params
        assert all(torch.equal(params[name], value) for name, value in ours.state_dict().items())


def test_the_authors_edsr_of_256_channels_scales_its_residuals():
    names = {"conv_first": "head.0", "conv_after_body": "body.2", "upsample.0": "tail.0.0", "upsample.2": "tail.0.2",
             "conv_last": "tail.1"}  # fmt: skip
    for width, res_scale in ((256, 0.1), (64, 1)):
        network = {"type": "EDSRTapped", "num_in_ch": 3, "num_out_ch": 3, "num_feat": width, "num_block": 2}
        state = build("network", {**network, "upscale": 4}, "network").state_dict()
        theirs = {}
        for name, value in state.items():
            layer, _, kind = name.rpartition(".")
            layer = layer.replace(".conv1", ".body.0").replace(".conv2", ".body.2")
            theirs[f"{names.get(layer, layer)}.{kind}"] = value
        done = convert_state(SOURCES["edsr"], theirs)
        assert (done.network["res_scale"], done.network["num_block"], done.scale) == (res_scale, 2, 4)
        assert build("network", done.network, "network").body[0].res_scale == res_scale


@pytest.mark.parametrize("name,source,file", OFFICIAL)
def test_outputs_of_the_official_code(vectors, shared_data, name, source, file):
    z = vectors(name)
    done = convert_file(source, shared_data / "weights" / file)
    for key in [k[4:] for k in z.files if k.startswith("out/")]:
        scale = int(key[-1]) if key.startswith("sr_x") else 4
        net = build("network", done.network, "network", offer={"scale": scale})
        net.load_state_dict(done.params)
        x = torch.from_numpy(z["in/x"])
        with torch.inference_mode():
            # IDN's stored output is its residual, which begins at HR row scale - 1
            y = net(x) if key != "upsample" else net.upsample(features(net, x))[..., scale - 1 :, scale - 1 :]
        np.testing.assert_allclose(y, z[f"out/{key}"], atol=2e-5 * float(z[f"hp/absmax/{key}"]))


def features(idn, x):
    """IDN's feature before its last layer."""
    kept = []
    handle = idn.blocks.register_forward_hook(lambda module, args, output: kept.append(output))
    idn(x)
    handle.remove()
    return kept[0]


EDVR_NAMES = """
conv_first feature_extraction.0.conv1 feature_extraction.0.conv2 fea_L2_conv1 fea_L2_conv2 fea_L3_conv1 fea_L3_conv2
pcd_align.L3_offset_conv1 pcd_align.L3_offset_conv2 pcd_align.L3_dcnpack pcd_align.L3_dcnpack.conv_offset_mask
pcd_align.L2_offset_conv1 pcd_align.L2_offset_conv2 pcd_align.L2_offset_conv3 pcd_align.L2_dcnpack
pcd_align.L2_dcnpack.conv_offset_mask pcd_align.L2_fea_conv pcd_align.L1_offset_conv1 pcd_align.L1_offset_conv2
pcd_align.L1_offset_conv3 pcd_align.L1_dcnpack pcd_align.L1_dcnpack.conv_offset_mask pcd_align.L1_fea_conv
pcd_align.cas_offset_conv1 pcd_align.cas_offset_conv2 pcd_align.cas_dcnpack pcd_align.cas_dcnpack.conv_offset_mask
tsa_fusion.tAtt_1 tsa_fusion.tAtt_2 tsa_fusion.fea_fusion tsa_fusion.sAtt_1 tsa_fusion.sAtt_2 tsa_fusion.sAtt_3
tsa_fusion.sAtt_4 tsa_fusion.sAtt_5 tsa_fusion.sAtt_L1 tsa_fusion.sAtt_L2 tsa_fusion.sAtt_L3 tsa_fusion.sAtt_add_1
tsa_fusion.sAtt_add_2 recon_trunk.0.conv1 recon_trunk.0.conv2 upconv1 upconv2 HRconv conv_last
""".split()  # noqa: SIM905


def test_edvr_in_the_authors_names():
    """Each name by hand, in the order of BasicSR's modules but for the two temporal embeddings, which are swapped."""
    blocks = {"num_extract_block": 1, "num_reconstruct_block": 1}
    edvr = {"type": "EDVR", "num_feat": 8, "num_frame": 3, "deformable_groups": 2, **blocks}
    net = build("network", edvr, "network")
    source = SOURCES["edvr"]
    renamed = source.convert({f"{n}.{kind}": torch.zeros(1) for n in EDVR_NAMES for kind in ("weight", "bias")})
    ours = net.state_dict()
    assert set(renamed) == set(ours)
    theirs = {f"{n}.{kind}": None for n in EDVR_NAMES for kind in ("weight", "bias")}
    for name in theirs:
        theirs[name] = ours[next(iter(source.convert({name: torch.zeros(1)})))]
    done = convert_state(source, theirs)
    assert done.params["fusion.temporal_attn1.weight"] is theirs["tsa_fusion.tAtt_2.weight"]
    assert done.network == {"type": "EDVR", "num_feat": 8, "num_frame": 3, "deformable_groups": 2, "hr_in": False,
                            "num_extract_block": 1, "num_reconstruct_block": 1, "with_predeblur": False,
                            "with_tsa": True}  # fmt: skip


def convert(tmp_path, *words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(w) for w in words]))


def vdsr_file(folder, **changes):
    state = {**VDSR(num_feat=4, num_layer=4).state_dict(), **changes}
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items() if v is not None}}, folder / "vdsr.pth")
    return folder / "vdsr.pth"


def test_command(tmp_path, capsys):
    out = tmp_path / "ours.pth"
    assert convert(tmp_path, "vdsr", vdsr_file(tmp_path), "-o", out) == 0
    params = torch.load(out, weights_only=True)["params"]
    net = VDSR(num_feat=4, num_layer=4)
    net.load_state_dict(params)
    text = capsys.readouterr().out
    assert "network_g: {type: VDSR, num_in_ch: 1, num_feat: 4, num_layer: 4, bias: false, scale: '?'}" in text
    assert convert(tmp_path, "vdsr", tmp_path / "vdsr.pth", "-o", out, "--scale", "3") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("network_g"))
    pasted = build("network", yaml.safe_load(line)["network_g"], "network")  # as it stands
    assert pasted.traits.scale == 3 and len(pasted.state_dict()) == len(params)
    out.with_suffix(".yml").unlink()
    assert convert(tmp_path, "vdsr", tmp_path / "vdsr.pth", "-o", out) == 0
    assert not (tmp_path / "ours.yml").exists()  # the scale is not known
    assert convert(tmp_path, "list") == 0 and "carn-m" in capsys.readouterr().out


@pytest.mark.parametrize("scale,words", [(3, ["--scale", "3"]), (4, [])])
def test_an_option_file_is_written_beside_the_weights(tmp_path, scale, words):
    """`kdsr upscale`, `kdsr export` and `kdsr test` know the network by it; the scale is the weights' or as said."""
    source, file = ("vdsr", vdsr_file(tmp_path)) if words else ("imdn", tmp_path / "imdn.pth")
    if not words:
        torch.save(build("network", {"type": "IMDN", "scale": scale, "num_feat": 16}, "network").state_dict(), file)
    out = tmp_path / "ours.pth"
    assert convert(tmp_path, source, file, "-o", out, *words) == 0
    assert open_network(out).traits.scale == scale
    force = [f"datasets:test_1:dataroot_gt={write_textures(tmp_path / 'hr', 1, 36, 36)}", "val:speed_size=null"]
    opt = load_options(out.with_suffix(".yml"), is_train=False, force=force, root=tmp_path)
    report = tester.run(opt, progress=False)
    assert report.results[0].per_item[0][1]["psnr"] > 5 and report.results[0].protocol.startswith("Y channel, crop")
    assert convert(tmp_path, source, file, "-o", out, *words) == 0  # once more
    out.with_suffix(".yml").write_text("name: mine\n")
    before = out.read_bytes()
    with refuses("ours.yml", "ours.pth"):
        convert(tmp_path, source, file, "-o", out, *words)
    assert out.with_suffix(".yml").read_text() == "name: mine\n" and out.read_bytes() == before


def test_weights_of_another_scale_are_refused(tmp_path):
    net = build("network", {"type": "IMDN", "scale": 2, "num_feat": 16}, "network")
    torch.save(net.state_dict(), tmp_path / "a.pth")
    with refuses("a.pth", "2", "3"):
        convert_file("imdn", tmp_path / "a.pth", 3)


def test_the_list_of_sources_does_not_wait_for_torch(tmp_path):
    code = "import sys; from kdsr_arch.cli import main; main(['convert', 'list']); assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(SOURCES)


@pytest.mark.parametrize("source,make,names", [
    ("vdrs", vdsr_file, ["'vdrs'", "'vdsr'"]),
    ("idn", vdsr_file, ["'idn'", "'idn-caffe'"]),
    ("carn-m", vdsr_file, ["vdsr.pth", "CARN-M", "b1.b1.body.4", "'vdsr'"]),
    ("vdsr", lambda d: vdsr_file(d, **{"output.weight": None}), ["vdsr.pth", "VDSR", "output"]),
    ("vdsr", lambda d: vdsr_file(d, extra=torch.zeros(1)), ["vdsr.pth", "extra"]),
    ("vdsr", lambda d: vdsr_file(d, **{"residual_layer.0.conv.weight": torch.zeros(4, 3, 3, 3)}),
     ["residual_layer.0.conv.weight", "(4, 3, 3, 3)", "(4, 4, 3, 3)"]),
    ("vdsr", lambda d: d / "nothing.pth", ["nothing.pth"]),
    ("imdn", lambda d: (d / "a.pth", (d / "a.pth").write_bytes(b"no weights"))[0], ["a.pth", "damaged"]),
    ("idn-caffe", lambda d: (d / "a.npz", (d / "a.npz").write_bytes(b"no arrays"))[0], ["a.npz", "damaged"]),
    ("imdn", lambda d: (d / "a.pth", torch.save({"params": {"x.weight": torch.zeros(3)}}, d / "a.pth"))[0],
     ["a.pth", "1 entries", "x.weight"]),
    ("imdn", lambda d: (d / "a.pth", torch.save({"epoch": 3}, d / "a.pth"))[0], ["a.pth", "epoch"]),
])  # fmt: skip
def test_bad_input_writes_nothing(tmp_path, source, make, names):
    out = tmp_path / "ours.pth"
    with refuses(*names):
        convert(tmp_path, source, make(tmp_path), "-o", out)
    assert not out.exists()


def test_a_folder_that_is_missing_is_made(tmp_path):
    convert(tmp_path, "vdsr", vdsr_file(tmp_path), "-o", tmp_path / "no" / "ours.pth")
    assert (tmp_path / "no" / "ours.pth").is_file()
    with refuses(tmp_path / "no" / "ours.pth", "cannot be made"):
        convert(tmp_path, "vdsr", vdsr_file(tmp_path), "-o", tmp_path / "no" / "ours.pth" / "ours.pth")


@pytest.mark.parametrize("name", ["vdsr.pth", "ours.safetensors", "ours.yml", "ours"])
def test_an_output_that_would_be_lost_is_refused(tmp_path, name):
    file = vdsr_file(tmp_path)
    before = file.read_bytes()
    with refuses(tmp_path / name):
        convert(tmp_path, "vdsr", file, "-o", tmp_path / name, "--scale", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["vdsr.pth"] and file.read_bytes() == before


@pytest.mark.parametrize(
    "content", [{"params": {"a": torch.ones(2)}}, {"params": 3}, None], ids=["other", "odd", "none"]
)
def test_other_weights_are_not_replaced(tmp_path, content):
    out = tmp_path / "keep.pth"
    out.write_bytes(b"mine") if content is None else torch.save(content, out)
    before = out.read_bytes()
    with refuses(out, "exists"):
        convert(tmp_path, "vdsr", vdsr_file(tmp_path), "-o", out, "--scale", 4)
    assert out.read_bytes() == before and not out.with_suffix(".yml").exists()


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1, 1j], ids=str)
def test_values_that_no_weight_has_are_refused(tmp_path, value):
    file = vdsr_file(tmp_path, **{"output.weight": torch.full((1, 4, 3, 3), value)})
    with refuses(file, "'output.weight'"):
        convert(tmp_path, "vdsr", file, "-o", tmp_path / "ours.pth")
    assert not (tmp_path / "ours.pth").exists()


def test_each_source_looks_like_itself_alone(vectors):
    """Our own FSRCNN in public names is told apart from the others."""
    state = FSRCNN(2, prelu="channel").state_dict()
    assert looks_like(state) == []
    z = vectors("fsrcnn_yjn870")
    assert looks_like({k[3:]: torch.from_numpy(z[k]) for k in z.files if k.startswith("sd/")}) == ["fsrcnn"]
    for name, source in (("san", "san"), ("rcan_x2", "rcan"), ("edsr_fakd", "edsr-fakd"), ("imdn", "imdn"),
                         ("rcan_fakd", "rcan-fakd"), ("carn_m_x2", "carn-m")):  # fmt: skip
        z = vectors(name)
        keys = [k.split("/", 1)[1] for k in z.files if k.startswith(("sd/", "shape/"))]
        assert looks_like({k: torch.zeros(1) for k in keys}) == [source]
