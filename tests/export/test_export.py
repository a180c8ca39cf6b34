"""Exported students compute what PyTorch computes, at any size, and say what they are."""

import json
import pickle

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import kdsr
from kdsr_arch.archs.arch_util import SubPixelDeconv
from kdsr_arch.archs.inference_form import reparametrize
from kdsr_arch.cli import main
from kdsr_arch.export.form import prepare
from kdsr_arch.export.formats import onnx_runner, read_facts
from kdsr_arch.infer.open import open_network
from kdsr_arch.io import save_tensors
from kdsr_arch.registry import build
from tests.fuzz.payloads import Calls
from tests.helpers.images import write_textures
from tests.helpers.messages import refuses

FSRCNN = "{type: FSRCNN, scale: 2, d: 8, s: 4, m: 1}"
VESPCN = "{type: VESPCN, scale: 2, num_feat: 8, num_hr_feat: 4, num_block: 1, num_flow_feat: 4, base: bicubic}"


@pytest.fixture
def weights(tmp_path):
    """Makes a file of weights, with motion and without symmetries."""

    def make(network):
        import yaml

        torch.manual_seed(0)
        net = build("network", yaml.safe_load(network), "network_g")
        for parameter in net.parameters():
            parameter.data += 0.03 * torch.randn_like(parameter)
        save_tensors({"params": net.state_dict()}, tmp_path / "net.pth")
        return tmp_path / "net.pth"

    return make


@pytest.mark.parametrize("shape", [(9, 4, 4, 3), (9, 2, 4, 1), (4, 2, 1, 0), (8, 4, 2, 0)], ids=str)
def test_transposed_convolutions_become_phases(shape):
    for make in (SubPixelDeconv, nn.ConvTranspose2d):
        net = nn.Sequential(nn.PReLU(), make(3, 2, *shape))
        fast, changes = reparametrize(net)
        assert not any(isinstance(m, nn.ConvTranspose2d) for m in fast.modules()) and len(changes) == 1
        assert isinstance(fast[0], nn.PReLU)
        for size in ((5, 7), (2, 9)):
            x = torch.randn(2, 3, *size)
            torch.testing.assert_close(fast(x), nn.ConvTranspose2d.forward(net[1], net[0](x)), atol=1e-6, rtol=1e-5)


def test_onnx_of_an_image_network(weights, tmp_path, capsys, device):
    onnx = pytest.importorskip("onnx")
    out = tmp_path / "net.onnx"
    assert main(["export", str(weights(FSRCNN)), "-o", str(out), "--network", FSRCNN]) == 0
    said = capsys.readouterr().out
    assert said.count("max difference") == 3 and "opset 18" in said and "pixel-shuffle" in said
    model = onnx.load(str(out))
    kinds = [node.op_type for node in model.graph.node]
    assert "ConvTranspose" not in kinds and kinds.count("PRelu") == 4 and "DepthToSpace" in kinds
    student, exported = (
        open_network(tmp_path / "net.pth", network=FSRCNN, device=device),
        open_network(out, device=device),
    )
    run = onnx_runner(out.read_bytes())
    for size in ((8, 8), (31, 50), (77, 16)):
        lq = torch.rand(3, 1, *size)
        expected = student.net(lq.to(device))
        assert (run(lq) - expected.cpu()).abs().max() < 1e-5
        assert (exported.net(lq.to(device)) - expected).abs().max() < 1e-5
    facts = read_facts(out)
    assert (facts["scale"], facts["color"], facts["mode"], facts["opset"]) == (2, "y", "image", 18)
    assert facts["network"] == {"type": "FSRCNN", "scale": 2, "d": 8, "s": 4, "m": 1} and facts["version"]
    metadata = {p.key: p.value for p in model.metadata_props}
    assert metadata["scale"] == "2" and metadata["num_frame"] == "1"


def test_half_precision_and_its_facts(weights, tmp_path):
    onnx = pytest.importorskip("onnx")
    out = tmp_path / "half.onnx"
    assert main(["export", str(weights(FSRCNN)), "-o", str(out), "--network", FSRCNN, "--fp16"]) == 0
    types = {t.data_type for t in onnx.load(str(out)).graph.initializer if t.name.endswith("weight")}
    assert types <= {onnx.TensorProto.FLOAT16} and read_facts(out)["precision"] == "fp16"


@pytest.mark.slow
def test_onnx_of_a_window_network_with_motion(weights, tmp_path):
    pytest.importorskip("onnx")
    out = tmp_path / "net.onnx"
    assert main(["export", str(weights(VESPCN)), "-o", str(out), "--network", VESPCN]) == 0
    facts = read_facts(out)
    assert (facts["mode"], facts["num_frame"], facts["color"]) == ("window", 3, "rgb")
    assert "VESPCN.for_inference" in facts["reparametrized"]
    student, run = open_network(tmp_path / "net.pth", network=VESPCN), onnx_runner(out.read_bytes())
    for size in ((9, 14), (30, 33)):
        lq = torch.rand(1, 3, 3, *size)
        assert (run(lq) - student.net(lq)).abs().max() < 1e-5


@pytest.mark.parametrize("ending", [".pt2", ".safetensors"])
def test_other_formats_come_back_as_they_were(weights, tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors")
    out = tmp_path / f"net{ending}"
    assert main(["export", str(weights(FSRCNN)), "-o", str(out), "--network", FSRCNN]) == 0
    assert read_facts(str(out))["scale"] == 2
    student = open_network(tmp_path / "net.pth", network=FSRCNN)
    back = torch.export.load(out).module() if ending == ".pt2" else open_network(out).net
    for size in ((12, 31), (40, 9)):
        lq = torch.rand(2, 1, *size)
        torch.testing.assert_close(back(lq), student.net(lq), atol=1e-6, rtol=1e-5)


def test_int8_tells_its_price(weights, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    write_textures(tmp_path, 3, 72, 80)
    out = tmp_path / "int8.onnx"
    arguments = ["export", str(weights(FSRCNN)), "-o", str(out), "--network", FSRCNN, "--int8", str(tmp_path)]
    assert main(arguments) == 0
    assert "PSNR loss" in capsys.readouterr().out
    kinds = {node.op_type for node in onnx.load(str(out)).graph.node}
    assert "QuantizeLinear" in kinds and read_facts(out)["precision"] == "int8"
    lq = torch.rand(1, 1, 20, 24)
    student = open_network(tmp_path / "net.pth", network=FSRCNN)
    assert (onnx_runner(out.read_bytes())(lq) - student.net(lq)).square().mean() < 1e-3
    assert main([*arguments, "--fp16"]) == 2


def test_network_is_found_beside_the_weights(weights, tmp_path):
    (tmp_path / "run/models").mkdir(parents=True)
    weights(FSRCNN).rename(tmp_path / "run/models/net_g_latest.pth")
    path = tmp_path / "run/models/net_g_latest.pth"
    with refuses(path, "--network"):
        open_network(path)
    (tmp_path / "run/opt.yml").write_text(f"scale: 2\nnetwork_g: {FSRCNN}\n")
    assert open_network(path).traits.scale == 2
    (tmp_path / "run/models/net_g_latest.yml").write_text(f"network: {FSRCNN.replace('8', '9')}\n")
    with refuses(path, "FSRCNN", "feature_extraction.0.0.weight", "(8, 1, 5, 5)", "(9, 1, 5, 5)"):
        open_network(path)


def test_bad_input_is_one_sentence_and_leaves_nothing(weights, tmp_path, capsys):
    good = weights(FSRCNN)
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"params": Calls(print, "ran")}))
    torch.save({"params": Calls(print, "ran")}, tmp_path / "zip.pth")
    (tmp_path / "cut.pth").write_bytes(good.read_bytes()[:500])
    (tmp_path / "text.safetensors").write_text("nothing")
    cases = [('zip.pth', 'a.onnx', [], 'may run code'), ('code.pth', 'a.onnx', [], 'error'),
             ('cut.pth', 'a.onnx', [], 'truncated'), ('text.safetensors', 'a.onnx', [], 'no safetensors'),
             ('absent.pth', 'a.onnx', [], 'no such file'), ('net.pth', 'a.xyz', [], 'which format'),
             ('net.pth', 'cut.pth/a.onnx', [], 'cannot be made'),
             ('net.pth', 'a.onnx', ['--scale', '0'], '1 or more, not 0'),
             ('net.pth', 'a.onnx', ['--scale', '3'], 'enlarges by 2'),
             ('net.pth', 'a.onnx', ['--frames', '5'], 'of a recurrent network'),
             ('net.pth', 'net.pth', [], 'which format'), ('net.pth', 'a.onnx', ['--opset', '3'], '18 to 23'),
             ('net.pth', 'a.onnx', ['--network', 'FSRCNN'], 'nor a network in YAML'),
             ('net.pth', 'a.pt2', ['--int8', '.'], 'leave --fp16 out')]  # fmt: skip
    for source, out, more, sentence in cases:
        arguments = ["export", str(tmp_path / source), "-o", str(tmp_path / out)]
        arguments += more if "--network" in more else ["--network", FSRCNN, *more]
        assert main(arguments) == 2, source
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1 and "ran" not in error.split()
    assert not list(tmp_path.glob("a.*")) and not list(tmp_path.glob(".*"))
    with refuses(tmp_path / "foreign.pt2"):
        torch.export.save(torch.export.export(nn.ReLU(), (torch.rand(2),)), tmp_path / "foreign.pt2")
        read_facts(tmp_path / "foreign.pt2")


@pytest.mark.parametrize("ending", [".onnx", ".pt2", ".safetensors"])
def test_weights_that_give_nan_are_not_exported(weights, tmp_path, ending, capsys):
    stored = torch.load(weights(FSRCNN), weights_only=True)
    stored["params"]["shrinking.0.0.weight"][0] = torch.nan
    save_tensors(stored, tmp_path / "net.pth")
    out = tmp_path / f"a{ending}"
    assert main(["export", str(tmp_path / "net.pth"), "-o", str(out), "--network", FSRCNN]) == 2
    assert "NaN" in capsys.readouterr().err and not out.exists()


def test_interpolation_is_inside_the_graph(weights):
    vdsr = "{type: VDSR, scale: 3, num_in_ch: 1}"
    student = open_network(weights(vdsr), network=vdsr)
    prepared = prepare(student)
    lq = prepared.example(9, 11)
    assert prepared.module(lq).shape[-2:] == (27, 33) and json.dumps(student.network)


@pytest.mark.slow
def test_a_file_of_one_size_upscales_images_of_any(tmp_path):
    """In overlapping pieces; what lies at their borders is a little other than in the whole."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert main(["export", "PlainSR_x2_14k", "-o", str(tmp_path / "e.onnx"), "--size", "40x24"]) == 0
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (37, 61, 3)).astype(np.uint8), (0, 0), 2)
    one, whole = (kdsr.load(name, device="cpu")(image).astype(int) for name in (tmp_path / "e.onnx", "PlainSR_x2_14k"))
    assert one.shape == whole.shape == (74, 122, 3) and np.abs(one - whole).max() <= 2
    with refuses("e.onnx", "leave the network out"):
        open_network(tmp_path / "e.onnx", "{type: Bicubic, scale: 2}")
    with refuses("precision bf16", "ONNX"):
        kdsr.load(tmp_path / "e.onnx", device="cpu", precision="bf16")
