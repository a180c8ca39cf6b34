"""Students run where they are exported for, and give there what PyTorch gives."""

import json
import shutil
import sys
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F

from kdsr_arch.archs.chain import read_chain
from kdsr_arch.cli import build_parser, main
from kdsr_arch.errors import UserError
from kdsr_arch.export import glsl
from kdsr_arch.export.form import prepare
from kdsr_arch.export.glsl import Photograph, placebo_runner
from kdsr_arch.export.targets import TARGETS, target_of
from kdsr_arch.infer.open import Opened
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.io import METADATA_KEY, save_tensors
from kdsr_arch.options.yaml_reader import parse_value
from kdsr_arch.registry import build
from tests.helpers.messages import refuses

RGB = "{type: PlainSR, scale: 2, num_feat: 6, num_block: 1, block: ecb, act: prelu, residual: bicubic}"
LUMA = "{type: FSRCNN, scale: 3, d: 6, s: 5, m: 1, prelu: channel}"


def student(text):
    """Builds a network with features of both signs, in its export form."""
    torch.manual_seed(0)
    net = build("network", parse_value(text), "network_g")
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    net = net.eval().requires_grad_(False)
    return prepare(Opened(net, traits_of(net), parse_value(text)))


@pytest.fixture
def export(tmp_path):
    """Exports a network by command; returns the exit code and the file."""

    def run(text, name, *more):
        save_tensors({"params": student(text).student.net.state_dict()}, tmp_path / "net.pth")
        path = tmp_path / name
        return main(["export", str(tmp_path / "net.pth"), "-o", str(path), "--network", text, *more]), path

    return run


@lru_cache
def why_no_shader():
    """Says what running shaders lacks here; None where they run."""
    if shutil.which("ffmpeg") is None:
        return "no ffmpeg"
    try:
        placebo_runner(2, "")
    except UserError as error:
        return str(error)
    return None


@pytest.fixture
def vulkan():
    """Skips where ffmpeg cannot run shaders."""
    if reason := why_no_shader():
        pytest.skip(reason)


def computed(chain, lq):
    """What a chain says, written down once more: convolutions, the shuffle, and the input enlarged axis by axis."""
    x = lq
    for layer in chain.layers:
        before, after = -layer.first, layer.weight.shape[-1] - 1 + layer.first
        x = F.conv2d(F.pad(x, (before, after, before, after)), layer.weight, layer.bias)
        if layer.slope is not None:
            x = torch.where(x > 0, x, layer.slope.view(-1, 1, 1) * x)
    y = F.pixel_shuffle(x, chain.scale)
    if chain.base is None:
        return y
    n, k = lq.shape[1], chain.base.view(chain.scale, 1, 1, 5)
    mirrored = torch.cat([lq[..., 1:2, :], lq[..., :1, :], lq, lq[..., -1:, :], lq[..., -2:-1, :]], -2)
    mirrored = torch.cat(
        [mirrored[..., 1:2], mirrored[..., :1], mirrored, mirrored[..., -1:], mirrored[..., -2:-1]], -1
    )
    tall = F.conv2d(mirrored, k.transpose(2, 3).repeat(n, 1, 1, 1), groups=n)  # channels (n, phase)
    both = F.conv2d(tall, k.repeat(n * chain.scale, 1, 1, 1), groups=n * chain.scale)  # (n, row phase, column phase)
    return y + F.pixel_shuffle(both, chain.scale)


@pytest.mark.parametrize(
    "text",
    [RGB, LUMA, *(LUMA.replace("3", str(scale)) for scale in (2, 4)),
     *(f"{{type: PlainSR, scale: 3, num_in_ch: 1, num_feat: 4, num_block: 1, act: relu, residual: {kind}}}"
       for kind in ("none", "repeat", "bilinear", "bicubic")),
     "{type: ETDS, scale: 4, num_feat: 8, num_block: 2}",
     "{type: SRVGGNetCompact, num_feat: 8, num_conv: 1, upscale: 2}"],
    ids=str,
)  # fmt: skip
def test_a_chain_is_the_network(text):
    prepared = student(text)
    chain, lq = read_chain(prepared.module.net, prepared.student.traits, "x"), prepared.example(11, 14, seed=3)
    torch.testing.assert_close(computed(chain, lq), prepared.reference(lq), atol=2e-6, rtol=1e-5)


def test_other_networks_are_refused_by_what_they_have():
    for text, *names in [
        ("{type: IMDN, num_feat: 8}", "glsl", "IMDB1", "leaky_relu"),
        ("{type: PlainUSR, widths: [8, 4]}", "glsl", "PlainUSR", "getitem"),
        ("{type: SMFANet, num_feat: 8, num_block: 1}", "glsl", "feats.0", "normalize"),
        ("{type: VDSR, scale: 2}", "glsl", "VDSR", "enlarged"),
        ("{type: VESPCN, scale: 2, num_feat: 4, num_block: 1}", "glsl", "window"),
        ("{type: PlainSR, num_feat: 68, num_block: 0}", "glsl", "head.0", "68", "64"),
        ("{type: PlainSR, scale: 5, num_feat: 4, num_block: 0}", "glsl", "tail", "75", "60"),
    ]:
        with refuses(*names):
            glsl.shader(student(text))


def test_shaders_bind_what_players_allow_and_tell_what_they_are():
    for text, hook, channels in ((RGB, "MAIN", 4), (LUMA, "LUMA", 1)):
        prepared = student(text)
        source = glsl.shader(prepared)
        passes = source.split("//!HOOK ")[1:]
        scale = prepared.student.traits.scale
        assert all(one.startswith(f"{hook}\n") and one.count("//!BIND") <= 16 for one in passes)
        assert f"//!WIDTH {hook}.w {scale} *" in passes[-1] and f"//!COMPONENTS {channels}\n" in passes[-1]
        facts = json.loads(source.splitlines()[1].partition(f"{METADATA_KEY}: ")[2])
        assert (facts["scale"], facts["network"]) == (scale, prepared.student.network)


@pytest.mark.slow
@pytest.mark.parametrize("text", [RGB, LUMA, RGB.replace("bicubic", "bilinear"), RGB.replace("bicubic", "repeat")])
def test_shaders_enlarge_as_pytorch_does(text, export, vulkan, capsys):
    code, path = export(text, "net.glsl", "--target", "glsl")
    assert code == 0 and capsys.readouterr().out.count("max difference") == 3
    prepared = student(text)
    lq = Photograph()(prepared.example(13, 21, batch=2, seed=7))
    got = placebo_runner(prepared.student.traits.scale, path.read_text())(lq)
    difference = got - prepared.reference(lq).clamp(0, 1)
    assert difference.abs().max() <= 1 / 255 and difference.square().mean() < 1e-6


@pytest.mark.slow
def test_shaders_that_fail_or_differ_are_not_written(export, vulkan, capsys, monkeypatch):
    shader = glsl.shader
    for change in (("r += ", "r += 0.1 + "), ("vec4 hook", "vec5 hook")):
        monkeypatch.setattr(glsl, "shader", lambda prepared, change=change: shader(prepared).replace(*change))
        code, path = export(LUMA, "net.glsl")
        error = capsys.readouterr().err
        assert code == 2 and error.startswith("error: glsl") and error.count("\n") == 1 and not path.exists()


@pytest.mark.slow
def test_openvino_gives_what_pytorch_gives(export):
    openvino = pytest.importorskip("openvino")
    for more, limit in (((), 1e-4), (("--fp16",), 1e-2)):
        code, path = export(RGB, "net.xml", "--target", "openvino", *more)
        model = openvino.Core().read_model(path)
        facts = json.loads(model.get_rt_info([METADATA_KEY, "json"]).astype(str))
        assert code == 0 and model.get_rt_info([METADATA_KEY, "scale"]).astype(str) == "2"
        assert facts["precision"] == ("fp16" if more else "fp32")
        lq = torch.rand(2, 3, 9, 31)
        got = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([lq.numpy()])[0]
        assert (torch.from_numpy(got) - student(RGB).reference(lq)).abs().max() < limit


@pytest.mark.parametrize("text", [RGB, LUMA], ids=["PlainSR", "FSRCNN"])
def test_ncnn_gives_what_pytorch_gives(text, export):
    pytest.importorskip("pnnx")
    ncnn = pytest.importorskip("ncnn")
    prepared = student(text)
    for more, limit in (((), 1e-4), (("--fp16",), 1e-2)):
        code, path = export(text, "net.param", "--target", "ncnn", *more)
        facts = json.loads(path.with_suffix(".json").read_text())
        assert code == 0 and facts["color"] == prepared.student.traits.color
        net = ncnn.Net()
        assert net.load_param(str(path)) == net.load_model(str(path.with_suffix(".bin"))) == 0
        lq, extractor = prepared.example(9, 31, seed=5), net.create_extractor()
        extractor.input("in0", ncnn.Mat(lq[0].numpy()).clone())
        got = torch.tensor(extractor.extract("out0")[1].numpy())
        assert (got - prepared.reference(lq)[0]).abs().max() < limit


def test_what_pnnx_throws_is_told_without_its_stack(export, tmp_path, capsys, monkeypatch):
    pnnx = pytest.importorskip("pnnx")
    pytest.importorskip("ncnn")
    tool = tmp_path / "pnnx"
    said = "terminate called\n  what():  no op for aten::mul\n" + "frame #1: in libc.so\n" * 40
    tool.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}END\nexit 134\n")
    tool.chmod(0o755)
    monkeypatch.setattr(pnnx, "EXEC_PATH", str(tool))
    code, path = export(RGB, "net.param")
    assert code == 2 and ": no op for aten::mul frame" in capsys.readouterr().err and not path.exists()


def test_ncnn_names_the_operator_that_it_lacks(export, capsys):
    pytest.importorskip("pnnx")
    pytest.importorskip("ncnn")
    code, path = export("{type: SMFANet, scale: 2, num_feat: 8, num_block: 1}", "net.param")
    assert code == 2 and "torch.var" in capsys.readouterr().err and not list(path.parent.glob("net.[!p]*"))


def test_bad_input_is_one_sentence_and_leaves_nothing(export, capsys, monkeypatch):
    for missing, name, sentence in (("openvino", "a.xml", "kdsr[openvino]"), ("ncnn", "a.param", "kdsr[ncnn]")):
        monkeypatch.setitem(sys.modules, missing, None)
        code, path = export(LUMA, name)
        error = capsys.readouterr().err
        assert code == 2 and sentence in error and error.count("\n") == 1 and not list(path.parent.glob("a.*"))
    monkeypatch.setenv("PATH", "")
    for more, sentence in (([], "apt install ffmpeg"), (["--fp16"], "--fp16"), (["--target", "ncnn"], ".param")):
        code, path = export(LUMA, "a.glsl", *more)
        error = capsys.readouterr().err
        assert code == 2 and sentence in error and error.count("\n") == 1 and not list(path.parent.glob("a.*"))


def test_two_targets_do_not_share_a_file_of_weights(tmp_path):
    (tmp_path / "net.xml").touch()
    with refuses("net.bin", tmp_path / "net.xml"):
        target_of(tmp_path / "net.param")
    assert target_of(tmp_path / "net.xml") == "openvino"


def test_the_command_knows_every_target():
    for name in TARGETS:
        assert build_parser("export").parse_args(["export", "w", "-o", "f", "--target", name]).target == name
