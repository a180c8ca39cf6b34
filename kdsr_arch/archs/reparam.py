"""3x3 convolutions that train as a sum of branches and run as one convolution, in training too.

The published blocks run their branches one by one while training, their inner maps padded by the inner bias. That is
what a 1x1 convolution makes of zeros, so each branch, and their sum, is a single convolution of the zero-padded input.
Here its kernel is computed from the branches' parameters, which costs as much as a few pixels, and gradients go through
it: the same function and the same gradients at the price of a plain layer. `infer.runner.fold` leaves only the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import one_of


class BranchedConv(nn.Module):
    """A 3x3 convolution (stride 1, zeros beyond the border) whose kernel is made of the parameters of branches."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Return the weight (out_channels, in_channels, 3, 3) and the bias (out_channels) of the sum of branches."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, h, w); under autocast too the kernel is made in float32."""
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.kernel()
        return F.conv2d(x, weight, bias, padding=1)

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        """Return the plain convolution that computes the same."""
        weight, bias = self.kernel()
        conv = nn.Conv2d(self.in_channels, self.out_channels, 3, padding=1).to(weight)
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)  # type: ignore[union-attr]
        return conv


def _parameter(shape: Sequence[int], fan_in: int) -> nn.Parameter:
    """Draw what ``nn.Conv2d`` starts weights and biases with: uniform within 1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


_EDGES = (  # Sobel's two filters and Laplace's, as ECBSR has them; each sums to zero
    ((1, 0, -1), (2, 0, -2), (1, 0, -1)),
    ((1, 2, 1), (0, 0, 0), (-1, -2, -1)),
    ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
)


class ECB(BranchedConv):
    """Edge-oriented convolution block (Zhang et al., ACM MM 2021): 3x3, 1x1 then 3x3, and 1x1 then three edge filters.

    The authors' biases at the ends of the branches are one here; those before the edge filters, which sum to zero, are
    left out, for they have no effect.

    Args:
        in_channels, out_channels: as of ``nn.Conv2d``.
        depth: width of the 1x1-3x3 branch over ``out_channels``; published 2.
        identity: add the input where channels are equal: the 3x3 kernel starts with a one in its center, which is the
            identity branch. Off in the published networks.
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int = 2, identity: bool = False) -> None:
        super().__init__(in_channels, out_channels)
        middle = depth * out_channels
        self.weight = _parameter((out_channels, in_channels, 3, 3), 9 * in_channels)
        self.bias = _parameter((out_channels,), 9 * in_channels)
        self.expand = _parameter((middle, in_channels), in_channels)
        self.expand_bias = _parameter((middle,), in_channels)
        self.squeeze = _parameter((out_channels, middle, 3, 3), 9 * middle)
        self.edge = _parameter((3, out_channels, in_channels), in_channels)
        self.edge_scale = nn.Parameter(1e-3 * torch.randn(3, out_channels))
        self.filters: Tensor
        self.register_buffer("filters", torch.tensor(_EDGES, dtype=torch.float32).flatten(1), persistent=False)
        if identity and in_channels == out_channels:
            with torch.no_grad():
                self.weight[..., 1, 1] += torch.eye(in_channels)

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Return the weight and the bias of the sum of branches."""
        edges = (self.edge_scale.unsqueeze(2) * self.edge).flatten(1).t()
        weight = torch.addmm(self.weight.reshape(-1, 9), edges, self.filters).view(self.weight.shape)
        weight = weight + torch.einsum("omyx,mi->oiyx", self.squeeze, self.expand)
        return weight, torch.addmv(self.bias, self.squeeze.sum((2, 3)), self.expand_bias)


class Conv3XC(BranchedConv):
    """The block of SPAN (Wan et al., CVPRW 2024): 1x1, 3x3 and 1x1 in a row, and a 1x1 beside them.

    Args:
        in_channels, out_channels: as of ``nn.Conv2d``.
        gain: width between the three over the channels; published 2.
    """

    def __init__(self, in_channels: int, out_channels: int, gain: int = 2) -> None:
        super().__init__(in_channels, out_channels)
        first, second = gain * in_channels, gain * out_channels
        self.expand = _parameter((first, in_channels), in_channels)
        self.expand_bias = _parameter((first,), in_channels)
        self.middle = _parameter((second, first, 3, 3), 9 * first)
        self.middle_bias = _parameter((second,), 9 * first)
        self.squeeze = _parameter((out_channels, second), second)
        self.skip = _parameter((out_channels, in_channels), in_channels)
        self.bias = _parameter((out_channels,), in_channels)  # of the last 1x1 and of the one beside it

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Return the weight and the bias of the sum of branches."""
        weight = self.expand.t().expand(len(self.middle), -1, -1) @ self.middle.flatten(2)
        skip = F.pad(self.skip.unsqueeze(2), (4, 4)).flatten(1)
        weight = torch.addmm(skip, self.squeeze, weight.flatten(1)).view(self.out_channels, self.in_channels, 3, 3)
        bias = torch.addmv(self.middle_bias, self.middle.sum((2, 3)), self.expand_bias)
        return weight, torch.addmv(self.bias, self.squeeze, bias)


BLOCKS = ("plain", "ecb", "conv3xc")


def conv3x3(kind: str, in_channels: int, out_channels: int) -> nn.Conv2d | BranchedConv:
    """Make a 3x3 convolution that keeps the size: 'plain', or trained as an 'ecb' or a 'conv3xc' block."""
    if one_of("3x3 convolution", "block", kind, BLOCKS) == "plain":
        return nn.Conv2d(in_channels, out_channels, 3, padding=1)
    return {"ecb": ECB, "conv3xc": Conv3XC}[kind](in_channels, out_channels)
