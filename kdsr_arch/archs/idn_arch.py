"""IDN: information distillation network, on luma with a 17x17 deconvolution or on RGB with a pixel-shuffle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsr_arch.archs.arch_util import SubPixelDeconv
from kdsr_arch.errors import one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.registry import ARCH_REGISTRY

SLOPE = 0.05


class DistillationBlock(nn.Module):
    """Enhancement unit (two groups of three convolutions, a quarter of the first's output set aside) and compression.

    Its layers are named as in the published weights: block 1 has conv3_1 ... conv3_6 and down1.
    """

    def __init__(self, width: int = 64, part: int = 16) -> None:
        super().__init__()
        self.part = part
        wide, narrow = width - part, width // 2
        self.conv_1 = nn.Conv2d(width, wide, 3, 1, 1)
        self.conv_2 = nn.Conv2d(wide, narrow, 3, 1, 1, groups=4)
        self.conv_3 = nn.Conv2d(narrow, width, 3, 1, 1)
        self.conv_4 = nn.Conv2d(wide, width, 3, 1, 1)
        self.conv_5 = nn.Conv2d(width, wide, 3, 1, 1, groups=4)
        self.conv_6 = nn.Conv2d(wide, width + part, 3, 1, 1)
        self.down = nn.Conv2d(width + part, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        y = x
        for conv in (self.conv_1, self.conv_2, self.conv_3):
            y = F.leaky_relu(conv(y), SLOPE)
        kept = torch.cat([x, y[:, : self.part]], 1)
        y = y[:, self.part :]
        for conv in (self.conv_4, self.conv_5, self.conv_6):
            y = F.leaky_relu(conv(y), SLOPE)
        return F.leaky_relu(self.down(kept + y), SLOPE)


class ResidualDeconv(SubPixelDeconv):
    """The 17x17 transposed convolution, whose output of (h - 1) s + 1 rows begins at HR row s - 1."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Map (B, C, h, w) to (B, C', h * s, w * s), the first s - 1 rows and columns zero."""
        s = self.stride[0]
        return F.pad(super().forward(x), (s - 1, 0, s - 1, 0))


@ARCH_REGISTRY.register()
class IDN(nn.Module):
    """IDN (Hui et al., CVPR 2018): a residual over the bicubic enlargement (MATLAB's), made inside the network.

    form 'y': one channel, 17x17 deconvolution, 552,769 parameters at every scale (the published weights' form).
    form 'rgb': three channels, a 3x3 convolution and a pixel-shuffle, 579,276 / 587,931 / 600,048 at x2/x3/x4; what
    lies between the last block and the pixel-shuffle is inferred from that count (UNCERTAIN: no activation there).

    Args:
        scale: 2, 3 or 4.
        form: 'y' or 'rgb'.
        num_feat: width; a quarter is set aside in each block.
        num_block: number of blocks.
    """

    def __init__(self, scale: int = 4, form: str = "y", num_feat: int = 64, num_block: int = 4) -> None:
        super().__init__()
        channels = 1 if one_of("IDN", "form", form, ("y", "rgb")) == "y" else 3
        self.conv1 = nn.Conv2d(channels, num_feat, 3, 1, 1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.blocks = nn.Sequential(*(DistillationBlock(num_feat, num_feat // 4) for _ in range(num_block)))
        self.upsample: nn.Module
        if form == "y":
            self.upsample = ResidualDeconv(num_feat, 1, 17, scale, 8)
        else:
            convs = [nn.Conv2d(num_feat, num_feat, 3, 1, 1), nn.Conv2d(num_feat, 3 * scale**2, 3, 1, 1)]
            self.upsample = nn.Sequential(*convs, nn.PixelShuffle(scale))
        taps = {"f_lr": f"blocks.{num_block - 1}", **{f"block{i + 1}": f"blocks.{i}" for i in range(num_block)}}
        self.traits = Traits("image", scale, color=form, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, C, h, w) in [0, 1] to an HR image (N, C, scale h, scale w)."""
        y = F.leaky_relu(self.conv1(x), SLOPE)
        y = F.leaky_relu(self.conv2(y), SLOPE)
        return upsample_bicubic(x, self.traits.scale) + self.upsample(self.blocks(y))
