"""The ONNX graph of an int8 student: whole numbers between QuantizeLinear and DequantizeLinear, floats at both ends."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from torch import Tensor

from kdsr_arch.archs.int8_arch import LOW, Int8, Int8Layer, Range


def qdq_model(net: Int8, opset: int, size: tuple[int, int] | None = None) -> Any:
    """Make the ModelProto: input 'lq' (N, C, h, w), output 'sr', float32 in [0, 1].

    Args:
        size: height and width of the one image that it takes; None: batch, height and width are free.

    Raises:
        ImportError: onnx is missing.
    """
    return _Graph(net).model(opset, size)


class _Graph:
    """Nodes and constants, added in the order in which they compute."""

    def __init__(self, net: Int8) -> None:
        import onnx

        self.onnx, self.net = onnx, net
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        whole = self._add("QuantizeLinear", "lq", *self._grid(net.input))
        y, held = self._read(whole, net.input), net.input
        for layer in net.chain():
            y, held = self._layer(y, held, layer)
        if net.base is not None:
            y = self._rounded(self._add("Add", y, self._base(whole)), net.output)
        self._add("DepthToSpace", y, blocksize=net.traits.scale, mode="CRD", output="sr")

    def model(self, opset: int, size: tuple[int, int] | None) -> Any:
        """Return the whole."""
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        channels, scale = self.net.channels, self.net.traits.scale
        count, *sides = (1, *size) if size else ("N", "h", "w")
        large = [scale * side for side in size] if size else ["H", "W"]
        entry = helper.make_tensor_value_info("lq", kind, [count, channels, *sides])
        exit_ = helper.make_tensor_value_info("sr", kind, [count, channels, *large])
        graph = helper.make_graph(self.nodes, "int8", [entry], [exit_], self.constants)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, producer_name="kdsr", ir_version=10)

    # ------------------------------------------------------------------------------------------------- the network

    def _layer(self, x: str, held: Range, layer: Int8Layer) -> tuple[str, Range]:
        weight, bias, steps = layer.whole(held.step())
        left, right, top, bottom = layer.pads()
        y = self._convolution(x, weight, bias, steps, held, [top, left, bottom, right])
        made = layer.made if isinstance(layer.made, Range) else self.net.output
        y = self._rounded(self._add("Relu", y) if layer.cut else y, made)
        if layer.slope is None:
            return y, made
        slope = (layer.slope / layer.slope_step()).round() * layer.slope_step()
        bent = cast(Range, layer.bent)
        return self._rounded(self._add("PRelu", y, self._constant(slope.view(-1, 1, 1), np.float32)), bent), bent

    def _base(self, whole: str) -> str:
        base = self.net.base
        assert base is not None
        for axis in (2, 3) if base.reach else ():
            whole = self._mirrored(whole, base.reach, axis)
        bias = base.weight.new_zeros(len(base.weight))
        held = self.net.input
        return self._rounded(
            self._convolution(self._read(whole, held), base.weight, bias, base.steps, held, [0] * 4), base.made
        )

    def _mirrored(self, x: str, reach: int, axis: int) -> str:
        """Continue by the border pixel and those before it, which no mode of Pad does."""
        last = np.iinfo(np.int64)
        head = self._slice(x, reach - 1, last.min, axis)
        tail = self._slice(x, -1, -reach - 1, axis)
        return self._add("Concat", head, x, tail, axis=axis)

    def _slice(self, x: str, first: int, end: int, axis: int) -> str:
        """Take pixels backwards."""
        return self._add("Slice", x, *(self._constant([value], np.int64) for value in (first, end, axis, -1)))

    # --------------------------------------------------------------------------------------------------- its parts

    def _convolution(
        self, x: str, weight: Tensor, bias: Tensor, steps: Tensor, held: Range, pads: list[int]
    ) -> str:  # fmt: skip
        kernel = self._stored(weight, steps, np.int8)
        return self._add("Conv", x, kernel, self._stored(bias, steps * held.step(), np.int32), pads=pads)

    def _stored(self, whole: Tensor, steps: Tensor, kind: type) -> str:
        """Read constants of whole numbers, each output channel with a step of its own."""
        zeros = self._constant(np.zeros(len(steps)), kind)
        return self._add(
            "DequantizeLinear", self._constant(whole, kind), self._constant(steps, np.float32), zeros, axis=0
        )

    def _rounded(self, x: str, held: Range) -> str:
        return self._read(self._add("QuantizeLinear", x, *self._grid(held)), held)

    def _read(self, whole: str, held: Range) -> str:
        return self._add("DequantizeLinear", whole, *self._grid(held))

    def _grid(self, held: Range) -> tuple[str, str]:
        """Return step and zero, which onnxruntime wants without sign."""
        return self._constant(held.step(), np.float32), self._constant(held.zero() - LOW, np.uint8)

    def _constant(self, values: Any, kind: type) -> str:
        array: Any = np.asarray(values.detach() if isinstance(values, Tensor) else values).astype(kind)
        self.constants.append(self.onnx.numpy_helper.from_array(array, f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def _add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"{kind}{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name
