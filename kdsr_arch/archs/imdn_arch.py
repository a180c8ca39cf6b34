"""IMDN: information multi-distillation network, a strong teacher that is fast on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY

SLOPE = 0.05


class ContrastAttention(nn.Module):
    """Channel weights from each map's mean plus its standard deviation."""

    def __init__(self, width: int, reduction: int = 16) -> None:
        super().__init__()
        inner = max(width // reduction, 1)
        self.conv_du = nn.Sequential(nn.Conv2d(width, inner, 1), nn.ReLU(), nn.Conv2d(inner, width, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each channel of (B, width, h, w) by its weight in (0, 1)."""
        mean = x.mean((2, 3), keepdim=True)
        # The tiny term keeps the root's gradient finite where a map is constant.
        contrast = ((x - mean).square().mean((2, 3), keepdim=True) + 1e-12).sqrt()
        return x * self.conv_du(contrast + mean)


class MultiDistillation(nn.Module):
    """Three times a quarter of the channels is set aside and the rest refined; the quarters are weighted and fused."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.part = width // 4
        rest = width - self.part
        self.c1 = nn.Conv2d(width, width, 3, 1, 1)
        self.c2 = nn.Conv2d(rest, width, 3, 1, 1)
        self.c3 = nn.Conv2d(rest, width, 3, 1, 1)
        self.c4 = nn.Conv2d(rest, self.part, 3, 1, 1)
        self.c5 = nn.Conv2d(width, width, 1)
        self.cca = ContrastAttention(self.part * 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        kept, y = [], x
        for conv in (self.c1, self.c2, self.c3):
            y = F.leaky_relu(conv(y), SLOPE)
            kept.append(y[:, : self.part])
            y = y[:, self.part :]
        return x + self.c5(self.cca(torch.cat([*kept, self.c4(y)], 1)))


@ARCH_REGISTRY.register()
class IMDN(nn.Module):
    """IMDN (Hui et al., ACM MM 2019) on RGB in [0, 1]: 694,404 / 703,059 / 715,176 parameters at x2/x3/x4.

    Taps: 'head', 'block1' ..., 'body_end' (the last LR convolution, without the long skip), 'body_end_skip' (with it;
    also 'f_lr'). There is no feature of HR size: the last convolution precedes the pixel-shuffle.

    Args:
        scale: enlargement.
        num_feat: width, a multiple of 4; published 64. A slimmer network of the same shape is a natural student.
        num_block: number of blocks; published 6.
    """

    def __init__(self, scale: int = 4, num_feat: int = 64, num_block: int = 6) -> None:
        super().__init__()
        self.num_block = num_block
        self.fea_conv = nn.Conv2d(3, num_feat, 3, 1, 1)
        for i in range(num_block):
            setattr(self, f"IMDB{i + 1}", MultiDistillation(num_feat))
        self.c = nn.Sequential(nn.Conv2d(num_feat * num_block, num_feat, 1), nn.LeakyReLU(SLOPE))
        self.LR_conv = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.long_skip = nn.Identity()
        self.upsampler = nn.Sequential(nn.Conv2d(num_feat, 3 * scale**2, 3, 1, 1), nn.PixelShuffle(scale))
        taps = {"head": "fea_conv", "body_end": "LR_conv", "body_end_skip": "long_skip", "f_lr": "long_skip"}
        taps |= {f"block{i + 1}": f"IMDB{i + 1}" for i in range(num_block)}
        self.traits = Traits("image", scale, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, 3, h, w) in [0, 1] to an HR image (N, 3, scale h, scale w)."""
        head = y = self.fea_conv(x)
        gathered = []
        for i in range(self.num_block):
            y = getattr(self, f"IMDB{i + 1}")(y)
            gathered.append(y)
        return self.upsampler(self.long_skip(self.LR_conv(self.c(torch.cat(gathered, 1))) + head))
