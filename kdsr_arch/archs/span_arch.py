"""SPAN: attention without parameters, the baseline of the efficient super-resolution challenges since 2024."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.archs.arch_util import DIV2K_MEAN
from kdsr_arch.archs.reparam import conv3x3
from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY

_RANGE = 255.0  # of the values that the convolutions see, the mean color subtracted


class AttentionBlock(nn.Module):
    """Three convolutions, SiLU between; the result plus the input is weighted by the result's sigmoid minus a half."""

    def __init__(self, width: int, block: str) -> None:
        super().__init__()
        self.c1_r, self.c2_r, self.c3_r = (conv3x3(block, width, width) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output and its first activated map, both of the shape of ``x`` (B, width, h, w)."""
        first = F.silu(self.c1_r(x))
        y = self.c3_r(F.silu(self.c2_r(first)))
        return (y + x) * (torch.sigmoid(y) - 0.5), first


@ARCH_REGISTRY.register()
class SPAN(nn.Module):
    """SPAN (Wan et al., CVPRW 2024) on RGB in [0, 1], parameters counted as folded.

    150,688 of them at x4 with 28 channels (the baseline of NTIRE 2025 and 2026), 426,288 with 48 (as published).
    Taps: 'head', 'body_end' (after the last block, convolved), 'f_lr' (before the pixel-shuffle's convolution).
    There is no feature of HR size.

    Args:
        scale: enlargement.
        num_feat: width.
        num_block: number of blocks; published 6.
        block: what each convolution is trained as: 'conv3xc' (published), 'ecb' or 'plain'.
    """

    def __init__(self, scale: int = 4, num_feat: int = 48, num_block: int = 6, block: str = "plain") -> None:
        super().__init__()
        self.conv_1 = conv3x3(block, 3, num_feat)
        self.blocks = nn.ModuleList(AttentionBlock(num_feat, block) for _ in range(num_block))
        self.conv_2 = conv3x3(block, num_feat, num_feat)
        self.conv_cat = nn.Conv2d(4 * num_feat, num_feat, 1)
        self.upsampler = nn.Sequential(nn.Conv2d(num_feat, 3 * scale**2, 3, 1, 1), nn.PixelShuffle(scale))
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)
        self.traits = Traits("image", scale, taps={"head": "conv_1", "body_end": "conv_2", "f_lr": "conv_cat"})

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, 3, h, w) in [0, 1] to an HR image (N, 3, scale h, scale w)."""
        head = y = self.conv_1((x - self.mean) * _RANGE)
        outputs = []
        for block in self.blocks:
            y, first = block(y)
            outputs.append(y)
        return self.upsampler(self.conv_cat(torch.cat([head, self.conv_2(y), outputs[0], first], 1)))
