"""MTKD: several teachers, joined by a network that is trained along, and a student that follows what it makes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from basicsr.archs.arch_util import trunc_normal_
from basicsr.archs.swinir_arch import Mlp, Upsample, WindowAttention
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import CRITERIA, Context, DistillLoss, require_map
from kdsr_arch.losses.detail_loss import WaveletLoss
from kdsr_arch.ops.color import matched_colors
from kdsr_arch.registry import LOSS_REGISTRY

_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K


@LOSS_REGISTRY.register()
class MTKDLoss(DistillLoss):
    """d(S, J) + L1(J, HR), where J is what a network makes of all teachers' images; the student moves by d alone.

    Taps the outputs of `network_t`, `network_t2`, ...: ``{student: output, teacher: [t, t2, t3]}``. The second part
    trains the network that joins them, and is left out while a stage freezes this term. MTKD trains that network first
    and then fixes it: options/train_mtkd.yml has the two stages. It is part of the training state, not of the student's
    file.

    J is the teachers' mean plus what the network adds, over 255, so that it begins as that mean; the authors add a
    constant color (``base: color``).

    Source: Jiang et al., "MTKD: Multi-Teacher Knowledge Distillation for Image Super-Resolution", ECCV 2024, weight 1
    beside 0.1 times the pixel loss. Its text has the wavelet distance, its option files L1.

    Args:
        distance: d, 'wavelet' (see WaveletLoss), 'l1' or 'l2'.
        levels: of the wavelets; sides of crops must be multiples of 2^levels.
        base: what the network adds to, 'mean' or 'color'.
        num_feat: width of the network (published 96).
        depths: blocks of each of its groups (published [4, 4]).
        num_heads: heads of its attention (published 6).
        window_size: side of its windows in pixels (published 8).
    """

    about = About(
        "MTKD: several teachers, joined by a network that is trained along",
        "Jiang et al., ECCV 2024",
        "d(S(x), J) + mean |J - y|, J what a network makes of all teachers' images",
        "{student: output, teacher: [t, t2], loss_weight: 1}",
        options="train_mtkd.yml",
    )

    align_channels = False
    align_size = False
    context = True

    def __init__(
        self,
        distance: str = "wavelet",
        levels: int = 4,
        base: str = "mean",
        num_feat: int = 96,
        depths: Sequence[int] = (4, 4),
        num_heads: int = 6,
        window_size: int = 8,
    ) -> None:
        super().__init__()
        one_of("MTKDLoss", "distance", distance, ("wavelet", *CRITERIA))
        self.base = one_of("MTKDLoss", "base", base, ("mean", "color"))
        sizes = (num_heads, window_size, *depths) if isinstance(depths, (list, tuple)) and depths else (0,)
        if min(sizes) < 1 or num_feat < 1 or num_feat % num_heads:
            raise UserError(
                "MTKDLoss: depths must be a list such as [4, 4], window_size 1 or more, and num_feat a multiple of "
                f"num_heads; got {depths}, {window_size}, {num_feat} and {num_heads}"
            )
        self.distance = WaveletLoss(levels) if distance == "wavelet" else CRITERIA[distance]
        self.size = {"num_feat": num_feat, "depths": depths, "num_heads": num_heads, "window_size": window_size}
        self.images, self.channels = 0, 0
        self.joiner: DCTSwin | None = None
        self.color: Tensor

    def setup(self, student_shapes: Sequence[Any], teacher_shapes: Sequence[Any]) -> None:
        """Note how many images the teachers make."""
        if len(teacher_shapes) < 2 or len(set(teacher_shapes)) > 1 or len(teacher_shapes[0]) != 4:
            raise UserError(
                "MTKDLoss joins the images of several teachers: give network_t2, and student: output, teacher: [t, t2]"
            )
        self.images, self.channels = len(teacher_shapes), teacher_shapes[0][1]

    def begin(self, context: Context) -> None:
        """Build the network that joins them."""
        if context.lq.dim() != 4:
            raise UserError("MTKDLoss is for networks of images")
        color = torch.tensor(_MEAN if self.channels == 3 else [0.5])[:, None, None]
        self.register_buffer("color", color.to(context.lq), persistent=False)
        self.joiner = DCTSwin(self.images, self.channels, context.scale, **self.size)  # type: ignore[arg-type]

    def join(self, teachers: Sequence[Tensor]) -> Tensor:
        """Join images (B, C, H, W) in [0, 1] to one."""
        assert self.joiner is not None
        base = torch.stack([*teachers]).mean(0) if self.base == "mean" else self.color
        return base + self.joiner(teachers) / 255

    def forward(self, students: list[Any], teachers: list[Any], context: Context) -> Tensor:  # type: ignore[override]
        """Return the sum of both parts.

        Args:
            students: the student's output, once for each teacher.
            teachers: their outputs, (B, C, H, W).
            context: the ground truth.
        """
        joined = self.join([require_map("MTKDLoss", image) for image in teachers])
        distance = self.distance(*matched_colors(students[0], joined.detach()))
        return distance + F.l1_loss(*matched_colors(joined, context.gt)) if joined.requires_grad else distance


# ------------------------------ DCTSwin, the network that joins the images: windows attend to one another's frequencies


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
