"""LiteRT's form (.tflite) of an int8 student: NHWC, whole numbers throughout; run in LiteRT before it is written."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from kdsr_arch.archs.int8_arch import HIGH, LOW, Int8, Int8Layer, Range
from kdsr_arch.errors import UserError
from kdsr_arch.export.form import SIZE, Prepared, metadata
from kdsr_arch.export.formats import Deviation, deviations
from kdsr_arch.io import METADATA_KEY, write_bytes

_VERSIONS = {"CONV_2D": 3, "ADD": 2, "PAD": 2, "MIRROR_PAD": 2}  # that take int8
_PIXELS = {"input": "lq (1, h, w, C), int8: pixel - 128", "output": "sr (1, H, W, C), int8: pixel - 128"}


def to_tflite(prepared: Prepared, path: Path, size: tuple[int, int] = SIZE) -> list[Deviation]:
    """Write the model and return how far it is, in LiteRT, from the int8 student in PyTorch.

    Args:
        size: LR height and width that it names: a phone's NPU takes these, a CPU any others as well.

    Raises:
        UserError: the student is none of int8, LiteRT is missing, or it computes something else.
    """
    model = tflite_bytes(prepared, size)
    differences = deviations(prepared, tflite_runner(model), "tflite")
    write_bytes(path, model)
    return differences


def tflite_bytes(prepared: Prepared, size: tuple[int, int] = SIZE) -> bytes:
    """Make the model: metadata under 'kdsr', sides free where the runtime allows.

    Raises:
        UserError: the student is none of int8, or LiteRT is missing.
    """
    net = prepared.student.net
    if not isinstance(net, Int8):
        raise UserError(
            "tflite: is written in int8: give --int8 FRAMES to calibrate it on, or the weights of a student that "
            "trained so (network_g: {type: Int8, ...})"
        )
    height, width = prepared.example(*size).shape[-2:]
    return _Writer(net, (height, width)).pack(metadata(prepared, **_PIXELS)[METADATA_KEY])


def tflite_runner(model: bytes) -> Callable[[Tensor], Tensor]:
    """Run a model in LiteRT on the CPU, with as many threads as torch; images are floats in [0, 1] at both ends.

    Raises:
        UserError: LiteRT is missing.
    """
    interpreter = _litert("interpreter").Interpreter(model_content=model, num_threads=torch.get_num_threads())
    entry, exit_ = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    shape: list[tuple[int, ...]] = []

    def run(lq: Tensor) -> Tensor:
        pixels = (lq.permute(0, 2, 3, 1) * 255 + LOW).round().to(torch.int8).contiguous()
        if shape != [tuple(pixels.shape)]:
            shape[:] = [tuple(pixels.shape)]
            interpreter.resize_tensor_input(entry, list(pixels.shape))
            interpreter.allocate_tensors()
        interpreter.set_tensor(entry, pixels.numpy())
        interpreter.invoke()
        return (torch.from_numpy(interpreter.get_tensor(exit_)).permute(0, 3, 1, 2).float() - LOW) / (HIGH - LOW)

    return run


def _litert(module: str) -> Any:
    try:
        return importlib.import_module(f"ai_edge_litert.{module}")
    except ImportError:
        raise UserError('tflite: LiteRT is missing: pip install "kdsr[tflite]"') from None


class _Writer:
    """Builds the flatbuffer by LiteRT's own schema: a subgraph of tensors and the operators between them."""

    def __init__(self, net: Int8, size: tuple[int, int]) -> None:
        self.schema = _litert("schema_py_generated")
        self.buffers = [self.schema.BufferT()]  # the first one is for tensors without data
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.kinds: list[str] = []
        self.net, self.size, self.scale = net, size, net.traits.scale
        channels = net.channels
        self.entry = x = self._map("lq", channels, net.input)
        y, held = x, net.input
        for layer in net.chain():
            y, held = self._layer(y, held, layer)
        if net.base is not None:
            total = self._map("sum", channels * self.scale**2, net.output)
            y = self._operator("ADD", [y, self._base(x)], total, self.schema.AddOptionsT())
        shuffled = self._map("sr", channels, net.output, self.scale)
        options = self.schema.DepthToSpaceOptionsT(blockSize=self.scale)
        self.exit = self._operator("DEPTH_TO_SPACE", [y], shuffled, options)

    # ------------------------------------------------------------------------------------------------- the network

    def _layer(self, x: int, held: Range, layer: Int8Layer) -> tuple[int, Range]:
        weight, bias, steps = layer.whole(held.step())
        last = layer is self.net.chain()[-1]
        made = layer.made if isinstance(layer.made, Range) else self.net.output
        side, before, channels = weight.shape[-1], -layer.first, len(bias)
        padded = 2 * before + 1 != side
        if padded:
            pads = torch.tensor([[0, 0], *[[before, side - 1 - before]] * 2, [0, 0]], dtype=torch.int32)
            wide = self._map(f"{layer.path} padded", weight.shape[1], held)
            x = self._operator("PAD", [x, self._constant("pads", pads)], wide, self.schema.PadOptionsT())
        inputs = [x, *self._weights(layer.path, weight, bias, steps, held, last)]
        y = self._map(layer.path, channels, made)
        y = self._operator("CONV_2D", inputs, y, self._conv(padded, layer.cut))
        if layer.slope is None:
            return y, made
        step = layer.slope_step()
        slope = self._constant("slope", (layer.slope / step).round().to(torch.int8).view(1, 1, -1), step.view(1))
        bent = cast(Range, layer.bent)
        return self._operator("PRELU", [y, slope], self._map(f"{layer.path} bent", channels, bent)), bent

    def _base(self, x: int) -> int:
        base = self.net.base
        assert base is not None
        channels = base.weight.shape[1]
        pads = torch.tensor([[0, 0], *[[base.reach] * 2] * 2, [0, 0]], dtype=torch.int32)
        if base.reach:
            options = self.schema.MirrorPadOptionsT(mode=self.schema.MirrorPadMode.SYMMETRIC)
            wide = self._map("mirrored", channels, self.net.input)
            x = self._operator("MIRROR_PAD", [x, self._constant("pads", pads)], wide, options)
        bias = torch.zeros(len(base.weight))
        weights = self._weights("base", base.weight, bias, base.steps, self.net.input, True)
        return self._operator(
            "CONV_2D", [x, *weights], self._map("base", len(bias), base.made), self._conv(True, False)
        )

    def _weights(
        self, name: str, weight: Tensor, bias: Tensor, steps: Tensor, held: Range, shuffled: bool
    ) -> tuple[int, int]:
        """Store them; what is shuffled to pixels lies channel by channel in each pixel, not the other way round."""
        if shuffled:
            order = torch.arange(len(bias)).view(-1, self.scale**2).t().flatten()
            weight, bias, steps = weight[order], bias[order], steps[order]
        kernel = weight.permute(0, 2, 3, 1).to(torch.int8)
        return (
            self._constant(f"{name} weight", kernel, steps),
            self._constant(f"{name} bias", bias.to(torch.int32), steps * held.step()),
        )

    def _conv(self, padded: bool, cut: bool) -> Any:
        padding = self.schema.Padding.VALID if padded else self.schema.Padding.SAME
        activation = self.schema.ActivationFunctionType.RELU if cut else self.schema.ActivationFunctionType.NONE
        return self.schema.Conv2DOptionsT(padding=padding, strideH=1, strideW=1, fusedActivationFunction=activation)

    # ---------------------------------------------------------------------------------------------- the flatbuffer

    def _map(self, name: str, channels: int, held: Range, scale: int = 1) -> int:
        """Declare a feature map, of no size but the input's; LiteRT finds the others."""
        steps, zeros = held.step().view(1), held.zero().view(1)
        shape = [1, *(scale * side for side in self.size), channels]
        return self._tensor(name, shape, self.schema.TensorType.INT8, 0, steps, zeros, [1, -1, -1, channels])

    def _constant(self, name: str, values: Tensor, steps: Tensor | None = None) -> int:
        self.buffers.append(self.schema.BufferT(data=np.frombuffer(values.contiguous().numpy().tobytes(), np.uint8)))
        kind = self.schema.TensorType.INT8 if values.dtype == torch.int8 else self.schema.TensorType.INT32
        zeros = None if steps is None else torch.zeros_like(steps)
        return self._tensor(name, list(values.shape), kind, len(self.buffers) - 1, steps, zeros)

    def _tensor(
        self, name: str, shape: list[int], kind: int, buffer: int, steps: Tensor | None, zeros: Tensor | None,
        signature: list[int] | None = None,
    ) -> int:  # fmt: skip
        form = None
        if steps is not None and zeros is not None:
            form = self.schema.QuantizationParametersT(
                scale=steps.detach().numpy().astype(np.float32), zeroPoint=zeros.numpy().astype(np.int64)
            )
        self.tensors.append(
            self.schema.TensorT(
                name=name, shape=shape, type=kind, buffer=buffer, quantization=form, shapeSignature=signature,
                hasRank=True,
            )
        )  # fmt: skip
        return len(self.tensors) - 1

    def _operator(self, kind: str, inputs: list[int], output: int, options: Any = None) -> int:
        if kind not in self.kinds:
            self.kinds.append(kind)
        chosen = type(options).__name__.removesuffix("T") if options is not None else "NONE"
        self.operators.append(
            self.schema.OperatorT(
                opcodeIndex=self.kinds.index(kind), inputs=inputs, outputs=[output], builtinOptions=options,
                builtinOptionsType=getattr(self.schema.BuiltinOptions, chosen),
            )
        )  # fmt: skip
        return output

    def pack(self, facts: str) -> bytes:
        """Return the file, which says ``facts`` of itself."""
        schema, builder = self.schema, importlib.import_module("flatbuffers").Builder(1024)
        self.buffers.append(schema.BufferT(data=np.frombuffer(facts.encode(), np.uint8)))
        graph = schema.SubGraphT(
            tensors=self.tensors, inputs=[self.entry], outputs=[self.exit], operators=self.operators, name="main"
        )
        codes = [
            schema.OperatorCodeT(
                deprecatedBuiltinCode=getattr(schema.BuiltinOperator, kind), version=_VERSIONS.get(kind, 1),
                builtinCode=getattr(schema.BuiltinOperator, kind),
            ) for kind in self.kinds
        ]  # fmt: skip
        model = schema.ModelT(
            version=3, operatorCodes=codes, subgraphs=[graph], buffers=self.buffers, description="kdsr",
            metadata=[schema.MetadataT(name=METADATA_KEY, buffer=len(self.buffers) - 1)],
        )  # fmt: skip
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
