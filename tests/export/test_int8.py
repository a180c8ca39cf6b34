"""Quantized students lose no more than is allowed, on a CPU with or without VNNI; what would is not written."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from kdsr_arch.cli import main
from kdsr_arch.errors import UserError
from kdsr_arch.export.form import prepare
from kdsr_arch.export.int8 import quantize
from kdsr_arch.infer.open import Opened
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.bicubic import imresize_uint8
from tests.helpers.images import texture, write_textures
from tests.helpers.messages import refuses
from tests.helpers.processes import environment

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


class Enlarger(nn.Module):
    """Repeats every pixel through two convolutions; one more channel, ``loud`` times an image, passes unused."""

    traits = Traits("image", 2)

    def __init__(self, loud: float) -> None:
        super().__init__()
        self.first, self.last, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 12, 1), nn.PixelShuffle(2)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        for channel in range(3):
            self.first.weight.data[channel, channel, 1, 1] = 1
            self.last.weight.data[4 * channel : 4 * channel + 4, channel] = 1
        self.first.weight.data[3, 0, 1, 1] = loud

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.last(self.first(x)))


def prepared(loud: float) -> object:
    net = Enlarger(loud).eval().requires_grad_(False)
    return prepare(Opened(net, net.traits, {"type": "Enlarger"}))


def psnr(made: np.ndarray, truth: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((made.clip(0, 1) - truth) ** 2)))


def sums_fit_16_bits(model: object) -> bool:
    """Whether no pair of products that a CPU without VNNI adds can exceed 16 bits (unsigned weights use 32)."""
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    taken = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    of_convolutions = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    weights = [stored[source] for source, result in taken.items() if result in of_convolutions]
    assert weights
    return all(w.dtype == np.uint8 or 2 * 255 * int(np.abs(w.astype(int)).max()) < 2**15 for w in weights)


@pytest.mark.parametrize("loud", [0, 4])
def test_what_is_written_is_as_good_as_it_must_be(tmp_path, loud):
    write_textures(tmp_path / "frames", 4, 64, 72)
    price = quantize(prepared(loud), tmp_path / "frames", tmp_path / "a.onnx", max_loss=0.5)
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    assert sums_fit_16_bits(onnx.load(str(tmp_path / "a.onnx")))
    losses, rng = [], np.random.default_rng(7)
    for _ in range(4):  # frames that it has never seen
        truth = texture(64, 96, rng)
        lq = imresize_uint8(truth, 0.5).transpose(2, 0, 1)[None].astype(np.float32) / 255
        exact = Enlarger(loud)(torch.from_numpy(lq)).detach().numpy()
        made, truth = session.run(None, {"lq": lq})[0], truth.transpose(2, 0, 1)[None] / 255
        losses.append(psnr(exact, truth) - psnr(made, truth))
    assert np.mean(losses) <= 0.5 and price.lost <= 0.5 and "other frames" in str(price)


@pytest.mark.slow
def test_imports_find_afterwards_what_they_found_before(tmp_path):
    code = "\n".join([
        "import sys; from pathlib import Path; from tests.export.test_int8 import prepared, quantize",
        "before = [*sys.path]",
        "quantize(prepared(0), Path(sys.argv[1]) / 'frames', Path(sys.argv[1]) / 'a.onnx', max_loss=60)",
        "assert 'onnxruntime.transformers' in sys.modules and sys.path == before",
    ])  # fmt: skip
    write_textures(tmp_path / "frames", 4, 64, 72)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment())


def test_a_ruined_network_is_not_written(tmp_path):
    write_textures(tmp_path / "frames", 4, 64, 72)
    with refuses(tmp_path / "a.onnx", "--max-loss", 0.5, "--fp16"):
        quantize(prepared(500), tmp_path / "frames", tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()
    quantize(prepared(500), tmp_path / "frames", tmp_path / "a.onnx", max_loss=60)
    assert (tmp_path / "a.onnx").is_file()


def test_weights_that_give_nan_are_not_quantized(tmp_path):
    write_textures(tmp_path / "frames", 2, 64, 72)
    broken = prepared(0)
    broken.module.net.first.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        quantize(broken, tmp_path / "frames", tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_a_loss_without_int8_is_refused(tmp_path, capsys):
    assert main(["export", "a.pth", "-o", str(tmp_path / "a.onnx"), "--max-loss", "1"]) == 2
    assert "--max-loss 1" in capsys.readouterr().err
