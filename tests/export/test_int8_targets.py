"""Int8 students give in LiteRT and in onnxruntime what they give in PyTorch."""

import json
import re
import sys

import cv2
import numpy as np
import pytest
import torch

from kdsr_arch.archs.int8_arch import Int8
from kdsr_arch.cli import main
from kdsr_arch.export.form import prepare
from kdsr_arch.export.formats import onnx_bytes, onnx_runner
from kdsr_arch.infer.open import Opened
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.io import METADATA_KEY, save_tensors
from kdsr_arch.ops.bicubic import imresize_uint8
from kdsr_arch.options.yaml_reader import parse_value
from kdsr_arch.registry import build
from tests.helpers.images import write_textures

FLOATS = [
    "{type: PlainSR, scale: 2, num_feat: 6, num_block: 1, act: prelu, residual: bicubic}",
    "{type: PlainSR, scale: 3, num_feat: 6, num_block: 1, act: relu, residual: none}",
    "{type: PlainSR, scale: 4, num_feat: 4, num_block: 1, block: ecb, residual: bilinear}",
    "{type: FSRCNN, scale: 2, d: 6, s: 5, m: 1, prelu: channel}",
]


def float_student(text):
    torch.manual_seed(0)
    return build("network", parse_value(text), "network_g").eval().requires_grad_(False)


def student(text):
    """An int8 student in its export form, calibrated on noise."""
    net = float_student(text)
    made = Int8.of(net, traits_of(net)).requires_grad_(False)
    made.calibrate(list(torch.rand(4, 1, made.channels, 24, 24)))
    return prepare(Opened(made, made.traits, {"type": "Int8", "network": parse_value(text)}))


@pytest.fixture
def export(tmp_path):
    """Exports a student by command; returns the exit code and the file."""

    def run(prepared, name, *more):
        save_tensors({"params": prepared.student.net.state_dict()}, tmp_path / "net.pth")
        path = tmp_path / name
        network = json.dumps(prepared.student.network)
        return main(["export", str(tmp_path / "net.pth"), "-o", str(path), "--network", network, *more]), path

    return run


@pytest.mark.parametrize("text", FLOATS)
def test_onnxruntime_gives_the_same_pixels(text):
    pytest.importorskip("onnxruntime")
    prepared = student(text)
    for size in (None, (9, 14)):
        run = onnx_runner(onnx_bytes(prepared, 18, size))
        lq = prepared.example(9, 14, batch=1 if size else 2, seed=3)
        apart = (run(lq) - prepared.reference(lq)).abs() * 255
        assert apart.max() < 2 and (apart > 0.5).float().mean() < 0.01


@pytest.mark.parametrize("text", FLOATS)
def test_litert_computes_in_whole_numbers_and_gives_nearly_the_same_pixels(text, export, capsys):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    prepared = student(text)
    code, path = export(prepared, "net.tflite", "--target", "tflite", "--size", "20x14")
    assert code == 0 and capsys.readouterr().out.count("max difference") == 3
    scale, channels = prepared.student.traits.scale, prepared.student.net.channels
    running = interpreter.Interpreter(str(path))
    running.allocate_tensors()
    (entry,), (exit_,) = running.get_input_details(), running.get_output_details()
    assert entry["shape"].tolist() == [1, 14, 20, channels] and entry["dtype"] == exit_["dtype"] == np.int8
    assert exit_["shape"].tolist() == [1, 14 * scale, 20 * scale, channels]
    lq = prepared.example(14, 20, seed=5)
    running.set_tensor(entry["index"], (lq * 255).round().sub(128).to(torch.int8).permute(0, 2, 3, 1).numpy())
    running.invoke()
    got = torch.tensor(running.get_tensor(exit_["index"])).permute(0, 3, 1, 2).float() + 128
    apart = (got - 255 * prepared.reference(lq)).abs()
    assert apart.max() <= 6 and apart.square().mean() < 1
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    kinds = {model.Subgraphs(0).Tensors(i).Type() for i in range(model.Subgraphs(0).TensorsLength())}
    assert kinds <= {schema.TensorType.INT8, schema.TensorType.INT32}
    facts = model.Buffers(model.Metadata(0).Buffer()).DataAsNumpy().tobytes()
    assert model.Metadata(0).Name().decode() == METADATA_KEY
    assert (json.loads(facts)["scale"], json.loads(facts)["precision"]) == (scale, "int8")


def test_a_float_student_is_calibrated_and_tells_its_loss(tmp_path, capsys):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    save_tensors({"params": float_student(FLOATS[0]).state_dict()}, tmp_path / "net.pth")
    frames, out = write_textures(tmp_path / "frames", 4, 64, 72), tmp_path / "a.tflite"
    command = ["export", str(tmp_path / "net.pth"), "-o", str(out), "--network", FLOATS[0]]
    assert main([*command, "--int8", str(frames), "--max-loss", "20"]) == 0
    assert "PSNR loss" in capsys.readouterr().out
    assert interpreter.Interpreter(str(out)).get_input_details()[0]["shape"].tolist() == [1, 180, 320, 3]
    out.unlink()
    assert main([*command, "--int8", str(frames), "--max-loss", "0"]) == 2 and not out.exists()


def test_a_student_trained_in_int8_tells_what_rounding_costs(export, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    prepared, frames = student(FLOATS[0]), write_textures(tmp_path / "frames", 3, 64, 72)
    for name in ("a.onnx", "a.tflite", "a.xml"):
        pytest.importorskip({"a.tflite": "ai_edge_litert", "a.xml": "openvino"}.get(name, "onnx"))
        assert export(prepared, name)[0] == 0
        assert "on 2 photographs" in (said := capsys.readouterr().out) and "PSNR loss" in said
    code, path = export(prepared, "b.onnx", "--int8", str(frames), "--max-loss", "20")
    said = re.search(r"on 3 frames: (\S+) dB in fp32, (\S+) dB in int8, PSNR loss (\S+) dB", capsys.readouterr().out)
    assert code == 0 and path.is_file()
    gt = [cv2.imread(str(file))[..., ::-1].copy() for file in sorted(frames.rglob("*.png"))]
    shown = [[psnr(net, image) for image in gt] for net in (float_student(FLOATS[0]), prepared.student.net)]
    expected = [np.mean(shown[0]), np.mean(shown[1]), np.mean(shown[0]) - np.mean(shown[1])]
    np.testing.assert_allclose([float(value) for value in said.groups()], expected, atol=0.006)
    code, path = export(prepared, "c.onnx", "--int8", str(frames), "--max-loss", "0")
    assert code == 2 and "--max-loss 0" in capsys.readouterr().err and not path.exists()


def psnr(net, image):
    """Of an image that a network enlarges again."""
    lq = torch.from_numpy(imresize_uint8(image, 1 / 2)).permute(2, 0, 1)[None].float() / 255
    error = net(lq)[0].clamp(0, 1).permute(1, 2, 0).numpy() - image / 255.0
    return -10 * np.log10(np.mean(error**2))


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [("a.glsl", [], ["glsl", "int8"]), ("a.param", [], ["ncnn", "int8"]), ("a.onnx", ["--fp16"], ["--fp16"]),
     ("a.onnx", ["--int8", "options"], ["options", "no images"]),
     ("a.tflite", ["--size", "4x"], ["--size 4x", "320x180"]),
     ("a.xml", ["--size", "40x30"], ["--size", ".tflite"]), ("a.safetensors", ["--int8", "."], [".tflite"])],
)  # fmt: skip
def test_what_does_not_fit_an_int8_student_is_one_sentence(name, more, words, export, capsys):
    code, path = export(student(FLOATS[0]), name, *more)
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and all(word in error for word in words) and not path.exists()


def test_litert_missing_and_students_without_int8_are_told(export, tmp_path, capsys, monkeypatch):
    prepared = student(FLOATS[0])
    for name in ("", ".interpreter", ".schema_py_generated"):
        monkeypatch.setitem(sys.modules, f"ai_edge_litert{name}", None)
    code, path = export(prepared, "a.tflite")
    assert code == 2 and 'pip install "kdsr[tflite]"' in capsys.readouterr().err and not path.exists()
    for part in prepared.student.net.modules():
        if "high" in getattr(part, "_buffers", {}):
            part.high.copy_(part.low)
    code, _ = export(prepared, "a.onnx")
    assert code == 2 and "no ranges yet" in capsys.readouterr().err
    save_tensors({"params": float_student(FLOATS[0]).state_dict()}, tmp_path / "float.pth")
    assert main(["export", str(tmp_path / "float.pth"), "-o", str(path), "--network", FLOATS[0]]) == 2
    assert "--int8 FRAMES" in capsys.readouterr().err


def test_a_sequence_ends_in_int8_by_the_ordinary_trainer(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    network, models = parse_value(FLOATS[0]), tmp_path / "experiments" / "seq"
    weights = str(models / "float" / "models" / "net_g_latest.pth")
    start = {"pretrain_network_g": weights, "pretrain_network_t": weights}
    values = {
        "name": "seq", "model_type": "ImageDistillModel", "scale": 2, "num_gpu": 0,
        "datasets": {"train": {
            "type": "ImagePairDataset", "dataroot_gt": str(write_textures(tmp_path / "images", 2, 48, 48)),
            "gt_size": 24, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0,
        }},
        "train": {"total_iter": 2, "optim_g": {"type": "Adam", "lr": 1e-3}, "ema_decay": 0.5},
        "sequence": [
            {"name": "float", "network_g": network, "train": {"pixel_opt": {"type": "L1Loss"}}},
            {"name": "quantize", "network_g": {"type": "Int8", "network": network}, "network_t": network,
             "path": start, "train": {"distill_opt": {"output": {"type": "MSELoss"}}}},
        ],
    }  # fmt: skip
    file = tmp_path / "seq.yml"
    file.write_text(json.dumps(values))
    assert main(["train", "-opt", str(file), "--root", str(tmp_path)]) == 0, capsys.readouterr().err
    out = tmp_path / "student.onnx"
    assert main(["export", str(models / "quantize" / "models" / "net_g_latest.pth"), "-o", str(out)]) == 0
    assert "int8" in out.read_bytes().decode("latin1")
