"""Post-training quantization to int8 for onnxruntime and LiteRT, calibrated on frames; what int8 costs in PSNR."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdsr_arch.archs.int8_arch import Int8
from kdsr_arch.data.augment import eight_bits
from kdsr_arch.data.keys import group_clips
from kdsr_arch.data.prepare.demo_data import photographs
from kdsr_arch.data.sources import FrameSource, MemorySource, open_source
from kdsr_arch.errors import UserError
from kdsr_arch.export.form import SIZE, Prepared, metadata, prepare
from kdsr_arch.export.formats import OPSET, onnx_bytes, onnx_runner
from kdsr_arch.export.tflite import tflite_bytes, tflite_runner
from kdsr_arch.infer.pixels import finite
from kdsr_arch.infer.runner import window_indices
from kdsr_arch.io import write_bytes
from kdsr_arch.ops.bicubic import imresize_uint8
from kdsr_arch.ops.color import rgb_to_y

MOST_FRAMES = 32
MAX_LOSS = 0.5
"""PSNR in dB that a quantized network may lose."""
_SIDE = 96  # LR pixels of the middle of a frame that are used: enough to see its range of values
# Without VNNI, a CPU adds two products of activation (8 bits) and signed weight in 16 bits, which 8-bit weights exceed.
# Weights of 7 bits never do, and are as fast everywhere; unsigned ones are added in 32 bits, and take twice the time.
_WEIGHTS: dict[str, dict[str, Any]] = {
    "7-bit": {"weight_type": "QInt8", "reduce_range": True},
    "8-bit unsigned": {"weight_type": "QUInt8"},
}


@dataclass(frozen=True)
class Price:
    """Mean PSNR against frames in fp32 and in int8, and of one against the other.

    Attributes:
        how: kind of int8, and the frames.
    """

    how: str
    fp32: float
    int8: float
    between: float

    @classmethod
    def of(cls, how: str, results: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Price:
        """Measure the output in fp32, in int8 and the HR frame of each of some frames."""
        before, after, between = (
            _mean_psnr((result[a], result[b]) for result in results) for a, b in ((0, 2), (1, 2), (0, 1))
        )
        return cls(how, before, after, between)

    @property
    def lost(self) -> float:
        """What quantization costs, in dB."""
        return self.fp32 - self.int8

    def __str__(self) -> str:
        return (
            f"int8 ({self.how}: {self.fp32:.2f} dB in fp32, {self.int8:.2f} dB in int8, PSNR loss {self.lost:.2f} dB; "
            f"{self.between:.1f} dB between the two"
        )

    def refusal(self, path: Path, max_loss: float, advice: str) -> UserError:
        """Say that the loss is too large."""
        return UserError(
            f"{path}: not written: int8 loses {self.lost:.2f} dB ({self.fp32:.2f} to {self.int8:.2f}) on these frames, "
            f"more than --max-loss {max_loss:g}: {advice}"
        )


def quantize(
    prepared: Prepared, frames: Path, path: Path, *, opset: int = OPSET, max_loss: float = MAX_LOSS,
    size: tuple[int, int] = SIZE,
) -> Price:  # fmt: skip
    """Quantize the convolutions (weights by channel, activations by tensor) and write the ONNX or LiteRT file.

    Args:
        prepared: in fp32.
        frames: a folder or LMDB of HR frames; their LR is made by MATLAB's bicubic. Every second one calibrates, the
            others are measured.
        path: a .tflite file, or an .onnx file.
        max_loss: dB of PSNR that it may lose.
        size: see `to_tflite`.

    Raises:
        UserError: no frames, or a network that cannot be quantized, or not without a larger loss.
    """
    pairs = list(_pairs(prepared, open_source(frames, None, None)))
    calibration, test = (pairs[::2], pairs[1::2]) if len(pairs) > 1 else (pairs, pairs)
    with torch.no_grad():
        before = [finite(prepared.module(lq), f"{prepared.student.label}, before it is quantized,") for lq, _ in test]
    inputs = [lq for lq, _ in calibration]
    others = "other frames" if len(pairs) > 1 else "the same frames (give more for an independent measure)"
    tflite = path.suffix.lower() == ".tflite"
    for name, model, run in _for_litert(prepared, inputs, size) if tflite else _for_onnx(prepared, inputs, opset):
        results = [(a, run(lq), gt) for a, (lq, gt) in zip(before, test, strict=True)]
        how = f"{name} weights): calibrated on {len(calibration)} frames; on {len(test)} of {others}"
        price = Price.of(how, results)
        if price.lost <= max_loss:
            write_bytes(path, model)
            return price
    fine_tune = "train it in int8 (network_g: {type: Int8, ...})" if tflite else "take --fp16"
    raise price.refusal(path, max_loss, f"calibrate on frames like those it is for, or {fine_tune}")


@torch.no_grad()
def price_of_rounding(prepared: Prepared, frames: Path | None, path: Path, max_loss: float = MAX_LOSS) -> Price:
    """Measure, in PyTorch, what a student that was trained in int8 loses against the same weights in floats.

    Args:
        frames: a folder or LMDB of HR frames; None: two photographs of scikit-image, whatever it loses on those.
        path: of the file that is to be written.
        max_loss: dB of PSNR that it may lose on the frames.

    Raises:
        UserError: no frames, or a larger loss.
    """
    net = prepared.student.net
    assert isinstance(net, Int8)
    source = MemorySource(photographs()) if frames is None else open_source(frames, None, None)
    results = [(net.unrounded(lq), net(lq), gt) for lq, gt in _pairs(prepared, source)]
    kind = "photographs of scikit-image" if frames is None else "frames"
    price = Price.of(f"as trained, against the same weights in floats, in PyTorch): on {len(results)} {kind}", results)
    if frames is not None and not price.lost <= max_loss:
        raise price.refusal(path, max_loss, "give frames like those it is for, or train it longer")
    return price


_Candidate = tuple[str, bytes, Callable[[Tensor], Tensor]]  # kind of weights, model, what runs it


def _for_onnx(prepared: Prepared, inputs: list[Tensor], opset: int) -> Iterator[_Candidate]:
    plain = onnx_bytes(prepared, opset)
    for name, keywords in _WEIGHTS.items():
        model = _quantized(plain, inputs, prepared, opset, keywords)
        yield name, model, onnx_runner(model)


def _for_litert(prepared: Prepared, inputs: list[Tensor], size: tuple[int, int]) -> Iterator[_Candidate]:
    student = prepared.student
    net = Int8.of(student.net, student.traits)
    net.calibrate(inputs)
    model = tflite_bytes(prepare(replace(student, net=net.requires_grad_(False), traits=net.traits)), size)
    yield "7-bit", model, tflite_runner(model)


def _pairs(prepared: Prepared, source: FrameSource) -> Iterator[tuple[Tensor, Tensor]]:
    """(input, HR) of evenly chosen frames."""
    traits = prepared.student.traits
    clips = group_clips(source.keys())
    places = [(keys, index) for keys in clips.values() for index in range(len(keys))]
    if not places:
        raise UserError(f"{source.name}: no frames to measure on")
    for keys, index in places[:: -(-len(places) // MOST_FRAMES)]:
        length = prepared.frames or 1
        window = window_indices(index, len(keys), length | 1)[:length]
        loaded = [eight_bits(source.get(keys[i])) for i in window]
        yield _pair(prepared, loaded, window.index(index) if traits.mode == "recurrent" else length // 2)


def _pair(prepared: Prepared, loaded: list[Any], center: int) -> tuple[Tensor, Tensor]:
    traits = prepared.student.traits
    unit = traits.lr_multiple
    height, width = (min(side // traits.scale, _SIDE) // unit * unit for side in loaded[0].shape[:2])
    if min(height, width) < max(traits.lr_minimum, 8):
        raise UserError(f"frames of {loaded[0].shape[1]}x{loaded[0].shape[0]} are too small to calibrate on")
    lq, gt = [], []
    for frame in loaded:
        top, left = ((side - n * traits.scale) // 2 for side, n in zip(frame.shape[:2], (height, width), strict=True))
        part = frame[top : top + height * traits.scale, left : left + width * traits.scale].copy()
        lq.append(imresize_uint8(part, 1 / traits.scale))
        gt.append(part)
    low, high = (torch.stack([torch.from_numpy(f).permute(2, 0, 1) for f in side]).float() / 255 for side in (lq, gt))
    if traits.color == "y":
        low, high = rgb_to_y(low), rgb_to_y(high)
    if traits.mode == "image":
        return low[:1], high[:1]
    return low[None], high[None] if traits.mode == "recurrent" else high[center : center + 1]


def _mean_psnr(pairs: Any) -> float:
    values = [
        -10 * torch.log10((a.clamp(0, 1) - b.clamp(0, 1)).double().square().mean().clamp(min=1e-10)) for a, b in pairs
    ]
    return float(torch.stack(values).mean())


@contextmanager
def _search_path_kept() -> Iterator[None]:
    """Undo what the block does to ``sys.path``: ONNX Runtime puts a folder of its there, which hides a project's."""
    before = [*sys.path]
    try:
        yield
    finally:
        sys.path[:] = before


@_search_path_kept()
def _quantized(plain: bytes, inputs: list[Tensor], prepared: Prepared, opset: int, weights: Mapping[str, Any]) -> bytes:
    try:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise UserError(f'int8 needs {error.name}: pip install "kdsr[export]"') from None

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(inputs)

        def get_next(self) -> dict[str, Any] | None:
            lq = next(self.left, None)
            return None if lq is None else {"lq": lq.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        try:
            logging.disable(logging.WARNING)  # its advice to prepare the model, which the exporter has done
            quantize_static(
                onnx.load_from_string(plain),
                str(target),
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                **{**weights, "weight_type": QuantType[weights["weight_type"]]},
            )
        except Exception as error:  # its errors have no common base
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"int8: this network cannot be quantized: {reason}") from None
        finally:
            logging.disable(logging.NOTSET)
        model = onnx.load(str(target))
    onnx.helper.set_model_props(model, metadata(prepared, opset=opset, precision="int8"))
    return model.SerializeToString()
