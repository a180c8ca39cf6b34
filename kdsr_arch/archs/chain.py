"""A network read as a chain: convolutions with activations, one pixel-shuffle, and the enlarged input added."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from kdsr_arch.archs.arch_util import Base
from kdsr_arch.archs.inference_form import PhaseConv
from kdsr_arch.errors import UserError
from kdsr_arch.infer.traits import Traits

_LEAVES = (nn.Conv2d, nn.PReLU, nn.ReLU, nn.LeakyReLU, nn.PixelShuffle, nn.Identity, PhaseConv, Base)
_KINDS = {"nearest": "repeat", "bilinear": "bilinear"}
REACH = 2  # LR pixels to each side that an enlarged pixel depends on, by any kind of Base


@dataclass(frozen=True)
class Layer:
    """A convolution that keeps the size, zeros around it, and what follows it.

    Attributes:
        path: of its module.
        weight: (out, in, n, n).
        bias: (out,).
        first: the tap ``weight[..., 0, 0]`` reads the pixel this far down and right, usually negative.
        slope: (out,), of a PReLU, 0 for a ReLU; None without activation.
    """

    path: str
    weight: Tensor
    bias: Tensor
    first: int
    slope: Tensor | None = None


@dataclass(frozen=True)
class Chain:
    """A network as layers.

    Attributes:
        layers: in their order; the last one's channels are shuffled to pixels.
        scale: of the pixel-shuffle.
        base: (scale, 2 * REACH + 1) weights of LR pixels -REACH to REACH in each phase of one axis, borders being
            mirrored: the enlarged input that is added; None: nothing is.
    """

    layers: list[Layer] = field(default_factory=list)
    scale: int = 0
    base: Tensor | None = None


def read_chain(net: nn.Module, traits: Traits, what: str) -> Chain:
    """Read a network in its form for inference, where all its layers are plain ones.

    Args:
        what: the format that needs it so, for messages.

    Raises:
        UserError: it has something else, which is named with the path of its module.
    """
    if traits.mode != "image" or traits.upsampled_input:
        takes = "an enlarged image" if traits.mode == "image" else f"frames ({traits.mode})"
        raise UserError(f"{what} takes networks of one LR image; {type(net).__name__} takes {takes}")
    try:
        nodes = list(_Tracer().trace(net).nodes)
    except Exception as error:  # whatever a network does with values that are not there yet
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{what}: {type(net).__name__} is no chain of convolutions ({reason})") from None
    reader = _Reader(net, what)
    for node in nodes:
        reader.read(node)
    if reader.chain.scale != traits.scale:
        raise UserError(f"{what}: {type(net).__name__} does not end in a pixel-shuffle by {traits.scale}")
    return reader.chain


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES)


class _Reader:
    """Takes the nodes of a graph one by one."""

    def __init__(self, net: nn.Module, what: str) -> None:
        self.net, self.what, self.chain = net, what, Chain()
        self.input: fx.Node | None = None
        self.last: fx.Node | None = None
        self.bases: dict[fx.Node, Base] = {}

    def read(self, node: fx.Node) -> None:
        """Add what a node does to the chain, or refuse it."""
        if node.op == "placeholder" and self.input is None:
            self.input = self.last = node
        elif node.op == "call_module":
            self._module(node, self.net.get_submodule(str(node.target)))
        elif node.op == "call_function" and node.target is F.interpolate and node.args[:1] == (self.input,):
            self._interpolate(node)
        elif node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add):
            terms = [term for term in node.args if term is not self.last]
            base = self.bases.get(terms[0]) if len(terms) == 1 and isinstance(terms[0], fx.Node) else None
            self._add(node, base if base is not None else self._refuse(node))
        elif node.op != "output" or node.args != (self.last,):
            self._refuse(node)

    def _refuse(self, node: fx.Node, why: str = "") -> NoReturn:
        stack = list(node.meta.get("nn_module_stack", {}).items())
        path, kind = (stack[-1][0], stack[-1][1][1]) if stack else ("", type(self.net))
        place = f"{path or 'the network itself'} ({getattr(kind, '__name__', kind)})"
        step = "" if node.op == "call_module" else f": {getattr(node.target, '__name__', node.target)}"
        raise UserError(
            f"{self.what} cannot have {place}{step}{why}: it takes convolutions, PReLU or ReLU after them, one "
            "pixel-shuffle at the end, and the enlarged input added to that"
        )

    def _module(self, node: fx.Node, module: nn.Module) -> None:
        if isinstance(module, Base) and node.args == (self.last, self.input):
            return self._add(node, module)
        if node.args != (self.last,) or (self.chain.scale and not isinstance(module, nn.Identity)):
            self._refuse(node, ", not in a row with the others")
        if isinstance(module, PhaseConv):
            if module.extra != module.stride:
                self._refuse(node)
            self._convolution(node, module.conv, -module.pads[0])
            self._follow(node, scale=module.stride)
        elif isinstance(module, nn.Conv2d):
            side = module.kernel_size[0]
            plain = module.stride == module.dilation == (1, 1) and module.groups == 1 and module.padding_mode == "zeros"
            if not plain or module.kernel_size != (side, side) or module.padding not in ((side // 2,) * 2, "same"):
                self._refuse(node, " of this form")
            self._convolution(node, module, -(side // 2))
        elif isinstance(module, nn.PixelShuffle):
            self._follow(node, scale=module.upscale_factor)
        elif not isinstance(module, nn.Identity):
            self._activation(node, module)
        self.last = node

    def _convolution(self, node: fx.Node, conv: nn.Conv2d, first: int) -> None:
        bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
        layer = Layer(str(node.target), conv.weight.detach(), bias.detach(), first)
        self.chain = replace(self.chain, layers=[*self.chain.layers, layer])

    def _activation(self, node: fx.Node, module: Any) -> None:
        layers = self.chain.layers
        if not layers or layers[-1].slope is not None:
            self._refuse(node, ", without a convolution before it")
        slope = module.weight.detach() if isinstance(module, nn.PReLU) else getattr(module, "negative_slope", 0.0)
        layer = replace(layers[-1], slope=torch.as_tensor(slope).float().expand(layers[-1].bias.shape))
        self.chain = replace(self.chain, layers=[*layers[:-1], layer])

    def _follow(self, node: fx.Node, scale: int) -> None:
        if not self.chain.layers:
            self._refuse(node, ", without a convolution before it")
        self.chain = replace(self.chain, scale=scale)

    def _interpolate(self, node: fx.Node) -> None:
        said: dict[str, Any] = {"size": None, "scale_factor": None, "mode": "nearest", "align_corners": None}
        said |= dict(zip(said, node.args[1:], strict=False)) | node.kwargs
        factor, kind = said["scale_factor"], _KINDS.get(str(said["mode"]))
        if not isinstance(factor, (int, float)) or factor != int(factor) or kind is None or said["align_corners"]:
            self._refuse(node)
        self.bases[node] = Base(int(factor), kind)

    def _add(self, node: fx.Node, base: Base) -> None:
        if self.chain.base is not None or base.scale != self.chain.scale:
            self._refuse(node)
        self.last = node
        if base.kind != "none":
            self.chain = replace(self.chain, base=_phases(base))


def _phases(base: Base) -> Tensor:
    """Read the weights of one axis off the response to one bright column."""
    scale, middle = base.scale, 2 * REACH
    column = torch.zeros(1, 1, 4 * REACH + 1, 4 * REACH + 1)
    column[..., middle] = 1
    response = base(torch.zeros(1, 1, *(scale * side for side in column.shape[-2:])), column)[0, 0, scale * middle]
    by_pixel = response.view(-1, scale)
    return torch.stack([by_pixel[middle - shift] for shift in range(-REACH, REACH + 1)], 1)
