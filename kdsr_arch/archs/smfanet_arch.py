"""SMFANet and SMFANet+: self-modulation feature aggregation, strong teachers that are fast on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsr_arch.archs.arch_util import Skip
from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY

_POOL = 8  # the modulation is computed at an eighth of the size


class LocalDetail(nn.Module):
    """A depthwise 3x3 convolution and two 1x1 ones, GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 2 * width
        self.conv_0 = nn.Sequential(nn.Conv2d(width, wide, 3, 1, 1, groups=width), nn.Conv2d(wide, wide, 1))
        self.conv_1 = nn.Conv2d(wide, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        return self.conv_1(F.gelu(self.conv_0(x)))


class SelfModulation(nn.Module):
    """Half of the channels is modulated by its pooled maxima and its variance, the other half filtered locally."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_0 = nn.Conv2d(width, 2 * width, 1)
        self.linear_1 = nn.Conv2d(width, width, 1)
        self.linear_2 = nn.Conv2d(width, width, 1)
        self.lde = LocalDetail(width)
        self.dw_conv = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        self.alpha = nn.Parameter(torch.ones(1, width, 1, 1))
        self.belt = nn.Parameter(torch.zeros(1, width, 1, 1))  # beta, as the published weights spell it

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w), h and w at least 8, to the same shape."""
        height, width = x.shape[-2:]
        local, wide = self.linear_0(x).chunk(2, 1)
        pooled = self.dw_conv(F.adaptive_max_pool2d(wide, (height // _POOL, width // _POOL)))
        variance = wide.var((2, 3), keepdim=True)
        modulation = F.gelu(self.linear_1(pooled * self.alpha + variance * self.belt))
        return self.linear_2(wide * F.interpolate(modulation, size=(height, width)) + self.lde(local))


class PartialConvFeedForward(nn.Module):
    """Two 1x1 convolutions, and between them a 3x3 one on a quarter of the channels; GELU after the first two."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.part = width // 2
        self.conv_0 = nn.Conv2d(width, 2 * width, 1)
        self.conv_1 = nn.Conv2d(self.part, self.part, 3, 1, 1)
        self.conv_2 = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        y = F.gelu(self.conv_0(x))
        return self.conv_2(torch.cat([F.gelu(self.conv_1(y[:, : self.part])), y[:, self.part :]], 1))


class ModulationBlock(nn.Module):
    """Self-modulation and feed-forward, each on features of unit length at every pixel, with a skip around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.smfa = SelfModulation(width)
        self.pcfn = PartialConvFeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        x = x + self.smfa(F.normalize(x))
        return x + self.pcfn(F.normalize(x))


@ARCH_REGISTRY.register()
class SMFANet(nn.Module):
    """SMFANet (Zheng et al., ECCV 2024) on RGB in [0, 1], of LR images of 8 x 8 pixels and more.

    197,328 parameters at x4; SMFANet+ (48 wide, 12 blocks) 495,888. Modules and parameters are named as in the authors'
    weights. The variance is that of the whole image: a crop is not restored as it is inside the whole.
    Taps: 'head', 'block1' ..., 'f_lr' (the last feature map, long skip included). There is no feature of HR size.

    Args:
        scale: enlargement.
        num_feat: width, an even number; published 36, and 48 for SMFANet+.
        num_block: number of blocks; published 8, and 12 for SMFANet+.
    """

    def __init__(self, scale: int = 4, num_feat: int = 36, num_block: int = 8) -> None:
        super().__init__()
        self.to_feat = nn.Conv2d(3, num_feat, 3, 1, 1)
        self.feats = Skip(*(ModulationBlock(num_feat) for _ in range(num_block)))
        self.to_img = nn.Sequential(nn.Conv2d(num_feat, 3 * scale**2, 3, 1, 1), nn.PixelShuffle(scale))
        taps = {"head": "to_feat", "f_lr": "feats", **{f"block{i + 1}": f"feats.{i}" for i in range(num_block)}}
        self.traits = Traits("image", scale, min_size=_POOL, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, 3, h, w) in [0, 1] to an HR image (N, 3, scale h, scale w)."""
        return self.to_img(self.feats(self.to_feat(x)))
