"""PlainUSR: plain 3x3 convolutions on fewer and fewer channels, gated by a small map of local importance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.archs.arch_util import carry_input
from kdsr_arch.archs.reparam import conv3x3
from kdsr_arch.errors import one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY

_POOL = 7  # side of the window that importance is pooled over


class SoftPool(nn.Module):
    """Mean over 7x7 windows, three apart, each value weighted by its exponential."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, (h - 4) // 3, (w - 4) // 3)."""
        weight = x.exp()
        return F.avg_pool2d(weight * x, _POOL, 3) / F.avg_pool2d(weight, _POOL, 3)


class LocalImportance(nn.Module):
    """Multiplies features by a map of importance and by the sigmoid of their own first channel.

    Args:
        width: channels of the features.
        num_feat: channels that the map is made in, at a sixth of the size; 0: a 3x3 convolution makes it at full size.
    """

    def __init__(self, width: int, num_feat: int) -> None:
        super().__init__()
        self.full_size = not num_feat
        if self.full_size:
            self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.Sigmoid())
        else:
            convs = [nn.Conv2d(num_feat, num_feat, 3, 2, 1), nn.Conv2d(num_feat, width, 3, 1, 1)]
            self.body = nn.Sequential(nn.Conv2d(width, num_feat, 1), SoftPool(), *convs, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        importance = self.body(x)
        if not self.full_size:
            importance = F.interpolate(importance, x.shape[-2:], mode="bilinear", align_corners=False)
        return x * importance * x[:, :1].sigmoid()


@ARCH_REGISTRY.register()
class PlainUSR(nn.Module):
    """PlainUSR (Wang et al., ACCV 2024) on RGB in [0, 1], parameters counted as folded.

    Ultra, ``widths: [16, 8], attention: middle``: 19,820 at x4, 13,628 at x2. Small, the default: 68,612 and 57,236.
    Each block works on the first channels of the features alone; three more channels carry the image from the first
    convolution to the last. The authors train 'plain' as blocks of their own. Taps: 'head', 'block1' ..., 'f_lr' (the
    last block's channels). There is no feature of HR size.

    Args:
        scale: enlargement.
        widths: channels that the blocks work on, from the first to the middle one; then backwards. The first is the
            width of the features.
        attention: where importance gates the features: in 'all' blocks, or in the 'middle' one, at full size.
        num_attention_feat: channels that importance is computed in where all blocks have it.
        block: what the blocks' convolutions are trained as: 'plain', 'ecb' or 'conv3xc'.
    """

    def __init__(
        self, scale: int = 4, widths: Sequence[int] = (32, 16, 8), attention: str = "all", num_attention_feat: int = 4,
        block: str = "plain",
    ) -> None:  # fmt: skip
        super().__init__()
        everywhere = one_of("PlainUSR", "attention", attention, ("all", "middle")) == "all"
        self.widths = (*widths, *reversed(widths[:-1]))
        num_feat = widths[0] + 3
        self.head = nn.Conv2d(3, num_feat, 3, 1, 1)
        self.blocks = nn.ModuleList()
        for i, width in enumerate(self.widths):
            layers: list[nn.Module] = [conv3x3(block, width, width), nn.LeakyReLU(0.05), conv3x3(block, width, width)]
            if everywhere or i == len(widths) - 1:
                layers.append(LocalImportance(width, num_attention_feat if everywhere else 0))
            self.blocks.append(nn.Sequential(*layers))
        last = nn.Conv2d(num_feat, 3 * scale**2, 3, 1, 1)
        self.tail = nn.Sequential(last, nn.PixelShuffle(scale))
        carry_input(self.head, last, 3, scale)
        taps = {"head": "head", "f_lr": f"blocks.{len(self.widths) - 1}"}
        taps |= {f"block{i + 1}": f"blocks.{i}" for i in range(len(self.widths))}
        self.traits = Traits("image", scale, min_size=_POOL if everywhere else 1, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, 3, h, w) in [0, 1] to an HR image (N, 3, scale h, scale w)."""
        x = self.head(x)
        for width, block in zip(self.widths, self.blocks, strict=True):
            x = torch.cat([block(x[:, :width]), x[:, width:]], 1)
        return self.tail(x)
