"""Forms of BasicSR's modules for graphs that follow any size: no branch on values, no number taken from a size.

Their values are those of the modules they stand for, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from basicsr.archs.arch_util import DCNv2Pack, flow_warp
from basicsr.archs.basicvsrpp_arch import SecondOrderDeformableAlignment
from basicsr.archs.spynet_arch import SpyNet
from basicsr.archs.swinir_arch import SwinTransformerBlock
from torch import Tensor, nn

from kdsr_arch.ops.copying import copy_network
from kdsr_arch.ops.exporting import deform_conv_by_grid


class GraphDeformConv(nn.Module):
    """A modulated deformable convolution of EDVR or BasicVSR++, sampled on a grid.

    Args:
        pack: stride 1 and padding that keeps the size.
    """

    def __init__(self, pack: Any) -> None:
        super().__init__()
        self.weight, self.bias, self.conv_offset = pack.weight, pack.bias, pack.conv_offset
        self.dilation = (pack.dilation,) * 2 if isinstance(pack.dilation, int) else tuple(pack.dilation)

    def convolve(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Convolve ``x`` (B, C, H, W) under offsets (B, 2gK, H, W) and mask (B, gK, H, W): g groups, K kernel taps."""
        return deform_conv_by_grid(x, offset, mask, self.weight, self.bias, self.dilation)


class GraphDCNv2(GraphDeformConv):
    """EDVR's: offsets and mask from another feature, (B, C, H, W) both."""

    def forward(self, x: Tensor, feat: Tensor) -> Tensor:
        """Convolve ``x`` (B, C, H, W) with offsets and mask from ``feat``."""
        first, second, mask = self.conv_offset(feat).chunk(3, 1)
        return self.convolve(x, torch.cat((first, second), 1), mask.sigmoid())


class GraphSecondOrder(GraphDeformConv):
    """BasicVSR++'s: bounded offsets on top of two optical flows (its equation 6)."""

    def __init__(self, pack: Any) -> None:
        super().__init__(pack)
        self.bound = pack.max_residue_magnitude

    def forward(self, x: Tensor, extra: Tensor, flow_1: Tensor, flow_2: Tensor) -> Tensor:
        """Convolve ``x`` (B, C, H, W) with offsets from ``extra`` and both flows (B, 2, H, W) as x, y in pixels."""
        first, second, mask = self.conv_offset(torch.cat([extra, flow_1, flow_2], 1)).chunk(3, 1)
        offset = self.bound * torch.cat((first, second), 1).tanh()
        pairs = offset.shape[1] // 4
        flows = torch.cat([flow.flip(1).repeat(1, pairs, 1, 1) for flow in (flow_1, flow_2)], 1)
        return self.convolve(x, offset + flows, mask.sigmoid())


class GraphSpyNet(nn.Module):
    """SpyNet without a branch on parity: its sides are multiples of 32, so that every level is twice the one before."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, ref: Tensor, supp: Tensor) -> Tensor:
        """Estimate the flow (N, 2, h, w) in pixels between two images (N, 3, h, w)."""
        size = ref.shape[-2:]
        padded = [(side + 31) // 32 * 32 for side in size]
        pair = [
            self.net.preprocess(F.interpolate(x, padded, mode="bilinear", align_corners=False)) for x in (ref, supp)
        ]
        levels = [(pair[0], pair[1])]
        for _ in range(5):
            one, other = levels[0]
            levels.insert(0, (F.avg_pool2d(one, 2, 2), F.avg_pool2d(other, 2, 2)))
        flow = torch.zeros_like(levels[0][0][:, :2])
        for number, (one, other) in enumerate(levels):
            if number:
                flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
            warped = flow_warp(other, flow.permute(0, 2, 3, 1), padding_mode="border")
            flow = flow + self.net.basic_module[number](torch.cat([one, warped, flow], 1))
        flow = F.interpolate(flow, size, mode="bilinear", align_corners=False)
        across, down = (flow[:, i : i + 1] * (size[1 - i] / padded[1 - i]) for i in (0, 1))
        return torch.cat([across, down], 1)


class GraphSwinBlock(nn.Module):
    """SwinIR's block with windows counted from the feature map at hand, and the mask of its shift made for it.

    Args:
        block: a SwinTransformerBlock, for evaluation.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp, self.attn = block.norm1, block.norm2, block.mlp, block.attn
        self.side, self.shift = block.window_size, block.shift_size

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Attend within shifted windows: (B, h * w, C), ``size`` being (h, w), to the same."""
        height, width = size
        y = self.norm1(x).reshape(-1, height, width, x.shape[-1])
        if self.shift:
            y = y.roll((-self.shift, -self.shift), (1, 2))
        y = self._attended(self._windows(y), self._mask(height, width, x) if self.shift else None)
        y = y.reshape(-1, height // self.side, width // self.side, self.side, self.side, x.shape[-1])
        y = y.transpose(2, 3).reshape(-1, height, width, x.shape[-1])
        if self.shift:
            y = y.roll((self.shift, self.shift), (1, 2))
        x = x + y.reshape(-1, height * width, x.shape[-1])
        return x + self.mlp(self.norm2(x))

    def _windows(self, y: Tensor) -> Tensor:
        """(B, h, w, C) to (B, windows, pixels of a window, C)."""
        side, (height, width) = self.side, y.shape[1:3]
        y = y.reshape(-1, height // side, side, width // side, side, y.shape[-1]).transpose(2, 3)
        return y.reshape(-1, (height // side) * (width // side), side * side, y.shape[-1])

    def _mask(self, height: int, width: int, like: Tensor) -> Tensor:
        """(windows, 1, n, n): -100 between pixels that only the shift brought together."""
        places = (torch.arange(side, device=like.device) - side for side in (height, width))
        rows, columns = ((place >= -self.side).long() + (place >= -self.shift).long() for place in places)
        regions = self._windows((3 * rows.view(-1, 1) + columns).view(1, height, width, 1))[0, :, :, 0]
        return -100.0 * (regions.unsqueeze(1) != regions.unsqueeze(2)).to(like).unsqueeze(1)

    def _attended(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        attn, heads, pixels = self.attn, self.attn.num_heads, windows.shape[2]
        qkv = attn.qkv(windows).unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = attn.relative_position_bias_table[attn.relative_position_index.flatten()]
        score = qkv[0] * attn.scale @ qkv[1].transpose(-2, -1) + bias.view(pixels, pixels, heads).permute(2, 0, 1)
        weight = (score if mask is None else score + mask).softmax(-1)
        return attn.proj((weight @ qkv[2]).transpose(2, 3).flatten(-2))


_FORMS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    DCNv2Pack: GraphDCNv2, SecondOrderDeformableAlignment: GraphSecondOrder, SpyNet: GraphSpyNet,
    SwinTransformerBlock: GraphSwinBlock,
}  # fmt: skip


def graph_form(net: nn.Module) -> nn.Module:
    """Copy a network with every module that has a form here replaced by it; the network itself where there is none."""
    paths = [path for path, module in net.named_modules() if type(module) in _FORMS]
    if not paths:
        return net
    net = copy_network(net)
    for path in paths:
        parent, _, name = path.rpartition(".")
        setattr(net.get_submodule(parent), name, _FORMS[type(net.get_submodule(path))](net.get_submodule(path)))
    return net.eval().requires_grad_(False)
