"""DCTSwin, the network that joins several teachers' images in MTKD: windows attend to one another's frequencies."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from basicsr.archs.arch_util import trunc_normal_
from basicsr.archs.swinir_arch import Mlp, Upsample, WindowAttention
from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    """Attention within the cosine transform of each window of (B, H, W, C), and an MLP; both with a skip."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, mlp_ratio: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, (window, window), heads)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, dct: Tensor, inverse: Tensor) -> Tensor:
        shift = (self.shift, self.shift)
        y = self.norm1(x).roll((-self.shift, -self.shift), (1, 2))
        y = y.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))
        y = torch.einsum("ui,vj,bhiwjc->bhwuvc", dct, dct, y)
        attended = self.attn(y.flatten(3, 4).flatten(0, 2)).view(y.shape)
        y = torch.einsum("iu,jv,bhwuvc->bhiwjc", inverse, inverse, attended).flatten(3, 4).flatten(1, 2)
        x = x + y.roll(shift, (1, 2))
        return x + self.mlp(self.norm2(x))


class _Group(nn.Module):
    """Blocks, shifted by turns, and a convolution, with a skip."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        shifts = [window // 2 * (i % 2) for i in range(depth)]
        self.blocks = nn.ModuleList(_Block(dim, heads, window, shift, mlp_ratio) for shift in shifts)
        self.conv = nn.Conv2d(dim, dim, 3, 1, 1)

    def forward(self, x: Tensor, dct: Tensor, inverse: Tensor) -> Tensor:
        y = x
        for block in self.blocks:
            y = block(y, dct, inverse)
        return self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + x


class DCTSwin(nn.Module):
    """Several HR images (B, C, H, W) -> one: SwinIR at LR size whose windows attend in the cosine transform's domain.

    Source: MTKD (Jiang et al., ECCV 2024), as the authors' code computes it, but for two things: no stochastic depth,
    and no masks where windows are shifted around the border (theirs are of transformed labels of regions, and depend on
    rounding). The published size is 96 channels, 2 groups of 4 blocks, 6 heads.

    Args:
        images: how many are joined.
        channels: C.
        scale: by which they are larger than an LR image.
        num_feat: width; a multiple of `num_heads`.
        depths: blocks in each group.
        num_heads, window_size, mlp_ratio: of each block.
    """

    dct: Tensor
    inverse: Tensor

    def __init__(
        self, images: int, channels: int, scale: int, *, num_feat: int = 96, depths: Sequence[int] = (4, 4),
        num_heads: int = 6, window_size: int = 8, mlp_ratio: float = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale, self.unit = scale, window_size * scale
        self.conv_first = nn.Conv2d(images * channels * scale**2, num_feat, 3, 1, 1)
        self.norm_first, self.norm = nn.LayerNorm(num_feat), nn.LayerNorm(num_feat)
        groups = (_Group(num_feat, depth, num_heads, window_size, mlp_ratio) for depth in depths)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.meshgrid")  # of BasicSR's attention
            self.layers = nn.ModuleList(groups)
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(num_feat, 64, 3, 1, 1), nn.LeakyReLU())
        self.upsample = Upsample(scale, 64)
        self.conv_last = nn.Conv2d(64, channels, 3, 1, 1)
        place = torch.arange(window_size, dtype=torch.float64)
        dct = 2 * torch.cos(math.pi * (2 * place + 1) * place[:, None] / (2 * window_size))  # DCT-II, not normalized
        self.register_buffer("dct", dct.float(), persistent=False)
        self.register_buffer("inverse", torch.linalg.inv(dct).float(), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Join the images, each (B, C, H, W)."""
        height, width = images[0].shape[-2:]
        padded = F.pad(torch.cat([*images], 1), (0, -width % self.unit, 0, -height % self.unit), "reflect")
        head = self.conv_first(F.pixel_unshuffle(padded, self.scale))
        x = self.norm_first(head.permute(0, 2, 3, 1))
        for layer in self.layers:
            x = layer(x, self.dct, self.inverse)
        body = self.conv_after_body(self.norm(x).permute(0, 3, 1, 2)) + head
        return self.conv_last(self.upsample(self.conv_before_upsample(body)))[..., :height, :width]
