"""A student that computes as int8 runtimes do, so that training makes up for what eight bits take.

Each step rounds where LiteRT and onnxruntime round: weights by output channel, feature maps as a whole, biases to
steps of the products. Gradients pass the rounding as if it were not there (Jacob et al., CVPR 2018).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.archs.chain import REACH, Layer, read_chain
from kdsr_arch.archs.inference_form import reparametrize
from kdsr_arch.infer.open import misfits
from kdsr_arch.infer.traits import Traits, traits_of
from kdsr_arch.registry import ARCH_REGISTRY, build

LOW, HIGH = -128, 127
MOST_WEIGHT = 63  # of 127: CPUs without VNNI add two products of weights and 8-bit pixels in 16 bits
_WIDEN, _NARROW = 0.05, 0.01  # of the way to a batch's bounds; what is cut off costs more than coarser steps
_LEAST = 1e-6  # of a step, where nothing was seen yet


class Range(nn.Module):
    """Rounds a feature map to 256 steps between bounds, which follow what it sees while it trains.

    Args:
        bounds: that stay; None: those of the first batch, then what most batches keep within.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bounds: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.fixed, self.widen, self.narrow = bounds is not None, _WIDEN, _NARROW
        for name, value in zip(("low", "high"), bounds or (0.0, 0.0), strict=True):
            self.register_buffer(name, torch.tensor(value), persistent=bounds is None)

    @property
    def seen(self) -> bool:
        """Whether there are bounds."""
        return bool(self.high > self.low)

    def step(self) -> Tensor:
        """Return the distance of two values."""
        return ((self.high - self.low) / (HIGH - LOW)).clamp(min=_LEAST)

    def zero(self) -> Tensor:
        """Return the whole number that stands for 0."""
        return (LOW - self.low / self.step()).round().clamp(LOW, HIGH).to(torch.int32)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Move the bounds towards the least and the largest value of ``x``; 0 stays between them."""
        unseen = self.high <= self.low
        for bound, value in ((self.low, x.amin().clamp(max=0)), (self.high, x.amax().clamp(min=0))):
            rate = torch.where(value.abs() > bound.abs(), self.widen, self.narrow)
            bound.copy_(torch.where(unseen, value, bound + rate * (value - bound)))

    def forward(self, x: Tensor) -> Tensor:
        """Round ``x``, of any shape."""
        if self.training and not self.fixed:
            self.observe(x.detach())
        return torch.fake_quantize_per_tensor_affine(x, self.step(), self.zero(), LOW, HIGH)


class Int8Layer(nn.Module):
    """A convolution with its activation.

    Args:
        layer: with weights to start from.
        rounded: whether what follows it reads its values in 8 bits of their own.
    """

    def __init__(self, layer: Layer, rounded: bool = True) -> None:
        super().__init__()
        self.path, self.first = layer.path, layer.first
        self.weight, self.bias = nn.Parameter(layer.weight.clone()), nn.Parameter(layer.bias.clone())
        self.slope = nn.Parameter(layer.slope.clone()) if layer.slope is not None and layer.slope.any() else None
        self.cut = layer.slope is not None and self.slope is None  # by a ReLU
        self.made: Range | nn.Identity = Range() if rounded else nn.Identity()
        self.bent: Range | nn.Identity = Range() if self.slope is not None else nn.Identity()

    def weight_steps(self) -> Tensor:
        """Return the step of each output channel's weights."""
        return (self.weight.detach().abs().amax((1, 2, 3)) / MOST_WEIGHT).clamp(min=_LEAST)

    def slope_step(self) -> Tensor:
        """Return the step of the slopes."""
        assert self.slope is not None
        return (self.slope.detach().abs().amax() / HIGH).clamp(min=_LEAST)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Convolve (N, C, h, w), whose values are ``step`` apart, keeping the size, and bend."""
        steps = self.weight_steps()
        none = torch.zeros_like(steps)  # PyTorch would look at whole numbers, for which the CPU waits for a GPU
        weight = torch.fake_quantize_per_channel_affine(self.weight, steps, none, 0, -MOST_WEIGHT, MOST_WEIGHT)
        bias = self.bias + ((self.bias / (steps * step)).round() * steps * step - self.bias).detach()
        y = F.conv2d(F.pad(x, self.pads()), weight, bias)
        y = self.made(y.relu() if self.cut else y)
        if self.slope is None:
            return y
        slope = torch.fake_quantize_per_tensor_affine(self.slope, self.slope_step(), none[0].int(), LOW, HIGH)
        return self.bent(F.prelu(y, slope))

    def unrounded(self, x: Tensor) -> Tensor:
        """Do the same in floats."""
        y = F.conv2d(F.pad(x, self.pads()), self.weight, self.bias)
        return F.prelu(y, self.slope) if self.slope is not None else y.relu() if self.cut else y

    @property
    def held(self) -> Range:
        """What rounds the layer's result; of a last layer without a base, only the network's own output does."""
        return cast(Range, self.bent if isinstance(self.bent, Range) else self.made)

    def whole(self, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return weight, bias and each output channel's step of the weights, as whole numbers of steps.

        Args:
            step: of the feature map that is convolved; the bias counts in steps of the products.
        """
        steps = self.weight_steps()
        return (self.weight / steps.view(-1, 1, 1, 1)).round(), (self.bias / (steps * step)).round(), steps

    def pads(self) -> tuple[int, int, int, int]:
        """Return the zeros to the left, right, top and bottom."""
        before, after = -self.first, self.weight.shape[-1] - 1 + self.first
        return before, after, before, after


class Int8Base(nn.Module):
    """The input enlarged, by whole numbers whose sum in each phase is that of the exact weights.

    Args:
        phases: of one axis, as a chain has them.
        channels: of the image.
    """

    weight: Tensor
    steps: Tensor
    exact: Tensor

    def __init__(self, phases: Tensor, channels: int) -> None:
        super().__init__()
        self.reach = int((phases.abs().amax(0) > 0).nonzero().sub(REACH).abs().max())
        used = phases[:, REACH - self.reach : REACH + self.reach + 1].double()
        kernels = torch.einsum("ay,bx->abyx", used, used).flatten(0, 1)
        whole, sums = zip(*map(_whole_numbers, kernels), strict=True)
        weight = torch.zeros(channels, len(kernels), channels, *kernels.shape[-2:])
        for channel in range(channels):
            weight[channel, :, channel] = torch.stack(whole)
        self.register_buffer("weight", weight.flatten(0, 1), persistent=False)
        self.register_buffer("steps", 1 / torch.tensor(sums * channels, dtype=torch.float32), persistent=False)
        self.register_buffer("exact", kernels.float().repeat(channels, 1, 1).unsqueeze(1), persistent=False)
        self.made = Range((0.0, 1.0))

    def unrounded(self, x: Tensor) -> Tensor:
        """Do the same with the exact weights."""
        return F.conv2d(mirrored(x, self.reach), self.exact, groups=x.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C scale^2, h, w), before the pixel-shuffle; borders are mirrored."""
        return self.made(F.conv2d(mirrored(x, self.reach), self.weight * self.steps.view(-1, 1, 1, 1)))


def _whole_numbers(kernel: Tensor) -> tuple[Tensor, int]:
    """Return a kernel that sums to 1 as whole numbers, and their sum: rounded so that a flat image stays as it is."""
    total = int(MOST_WEIGHT / float(kernel.abs().max()))
    exact = kernel * total
    whole = exact.floor()
    rest = (exact - whole).flatten().argsort(descending=True)[: total - int(whole.sum())]
    whole.view(-1)[rest] += 1
    return whole.float(), total


def mirrored(x: Tensor, reach: int) -> Tensor:
    """Continue (N, C, h, w) by ``reach`` pixels on each side, the border pixel repeated first."""
    for axis in (-2, -1):
        if reach:
            head, tail = x.narrow(axis, 0, reach), x.narrow(axis, x.shape[axis] - reach, reach)
            x = torch.cat([head.flip(axis), x, tail.flip(axis)], axis)
    return x


@ARCH_REGISTRY.register()
class Int8(nn.Module):
    """Another network in int8: image and result are 8-bit pixels, and everything between is rounded as well.

    ``network_g: {type: Int8, network: {type: PlainSR, ...}}`` with ``path.pretrain_network_g`` of the float student
    trains it on; ``kdsr export`` writes the result for LiteRT (.tflite) and onnxruntime. Tap: 'f_lr' (the feature map
    before the last convolution).

    Args:
        network: the float student with its scale: convolutions, PReLU or ReLU, a pixel-shuffle, the enlarged input
            added.
    """

    def __init__(self, network: Mapping[str, Any]) -> None:
        super().__init__()
        self._network = copy.deepcopy(dict(network))
        net = self._float()
        self._fill(net, traits_of(net))

    @classmethod
    def of(cls, net: nn.Module, traits: Traits) -> Int8:
        """Make it of a network at hand, which stays as it is; its ranges are still to be measured."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._fill(net, traits)
        return made.eval()

    def chain(self) -> list[Int8Layer]:
        """Return the layers."""
        return cast(list[Int8Layer], list(self.layers))

    @property
    def channels(self) -> int:
        """Of the image."""
        return int(self.chain()[0].weight.shape[1])

    def _float(self) -> nn.Module:
        return cast(nn.Module, build("network", self._network, "network"))

    def _fill(self, net: nn.Module, traits: Traits) -> None:
        chain = read_chain(reparametrize(net)[0], traits, "int8")
        self.input, self.output = Range((0.0, 1.0)), Range((0.0, 1.0))
        last = chain.layers[-1]
        self.layers = nn.ModuleList(
            Int8Layer(layer, layer is not last or chain.base is not None) for layer in chain.layers
        )
        channels = chain.layers[0].weight.shape[1]
        self.base = Int8Base(chain.base, channels) if chain.base is not None else None
        taps = {"f_lr": f"layers.{len(self.layers) - 2}"} if len(self.layers) > 1 else {}
        self.traits = Traits("image", chain.scale, color=traits.color, taps=taps, half=False)

    def adopted(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Turn the float student's weights into this network's, without ranges; others are returned as they are."""
        net = self._float()
        if misfits(net, weights):
            return weights
        net.load_state_dict(dict(weights))
        return Int8.of(net, self.traits).state_dict()

    @property
    def measured(self) -> bool:
        """Whether the ranges of all feature maps are known."""
        return all(part.seen for part in self.modules() if isinstance(part, Range))

    def calibrate(self, images: Sequence[Tensor]) -> None:
        """Measure the ranges anew, halfway from the mean of the bounds of images (N, C, h, w) to the widest.

        Less cuts off what some images need, more makes the steps too coarse for all.
        """
        ranges = [part for part in self.modules() if isinstance(part, Range) and not part.fixed]
        for part in ranges:
            part.low.zero_(), part.high.zero_()
        for number, image in enumerate(images):
            self._observe(ranges, image, 1 / (number + 1), 1 / (number + 1))
        means = [(part.low.clone(), part.high.clone()) for part in ranges]
        for image in images:
            self._observe(ranges, image, 1.0, 0.0)
        for part, (low, high) in zip(ranges, means, strict=True):
            part.low.lerp_(low, 0.5), part.high.lerp_(high, 0.5)
            part.widen, part.narrow = _WIDEN, _NARROW
        self.eval()

    @torch.no_grad()
    def _observe(self, ranges: list[Range], image: Tensor, widen: float, narrow: float) -> None:
        for part in ranges:
            part.widen, part.narrow = widen, narrow
        self.train()
        self(image)

    def unrounded(self, x: Tensor) -> Tensor:
        """Map an LR image to an HR image as the same weights do in floats: what rounding costs is the difference."""
        y = x
        for layer in self.chain():
            y = layer.unrounded(y)
        return F.pixel_shuffle(y if self.base is None else y + self.base.unrounded(x), self.traits.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, C, h, w) in [0, 1] to an HR image (N, C, scale h, scale w) in 256 steps of [0, 1]."""
        with torch.autocast(x.device.type, enabled=False):
            x = self.input(x.float())
            y = x
            held = self.input
            for layer in self.chain():
                y, held = layer(y, held.step()), layer.held
            return F.pixel_shuffle(self.output(y if self.base is None else y + self.base(x)), self.traits.scale)
