"""HAESR: large kernels and attention over windows and grids, a teacher of another family than convolutional ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY

_SIDE = 8  # of a window, and of a grid
_REACH = 4  # how far beyond its window a pixel looks
_KERNEL = 31


def to_groups(x: Tensor, rows: int, columns: int, spread: bool) -> Tensor:
    """Split (B, C, H, W) into groups of rows x columns pixels: (B * groups, rows * columns, C).

    Args:
        spread: the pixels of a group lie H / rows and W / columns apart, not side by side.
    """
    h, w = x.shape[2] // rows, x.shape[3] // columns
    if spread:
        y = x.unflatten(3, (columns, w)).unflatten(2, (rows, h)).permute(0, 3, 5, 2, 4, 1)
    else:
        y = x.unflatten(3, (w, columns)).unflatten(2, (h, rows)).permute(0, 2, 4, 3, 5, 1)
    return y.flatten(3, 4).flatten(0, 2)


def from_groups(y: Tensor, shape: torch.Size, rows: int, columns: int, spread: bool) -> Tensor:
    """Undo `to_groups` for an image of ``shape`` (B, C, H, W)."""
    h, w = shape[2] // rows, shape[3] // columns
    y = y.reshape(shape[0], h, w, rows, columns, shape[1])
    return y.permute(0, 5, 3, 1, 4, 2).reshape(shape) if spread else y.permute(0, 5, 1, 3, 2, 4).reshape(shape)


class ChannelNorm(nn.Module):
    """Normalizes each pixel over its channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


class GatedFeedForward(nn.Module):
    """A 1x1 and a depthwise 3x3 convolution to twice the channels, one half gating the other, and a 1x1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=2 * width, bias=False)
        self.project_out = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        gate, y = self.dwconv(self.project_in(x)).chunk(2, 1)
        return self.project_out(F.gelu(gate) * y)


class PartialLargeKernel(nn.Module):
    """Every fourth channel, weighted by its mean's sigmoid, through 1x31 and 31x1 depthwise filters; then all mixed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.part, half = width // 4, _KERNEL // 2
        self.DWConv_Kx1 = nn.Conv2d(self.part, self.part, (_KERNEL, 1), 1, (half, 0), groups=self.part)
        self.DWConv_1xK = nn.Conv2d(self.part, self.part, (1, _KERNEL), 1, (0, half), groups=self.part)
        self.conv1 = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        x = x.unflatten(1, (self.part, 4)).transpose(1, 2).flatten(1, 2)
        far, rest = x[:, : self.part], x[:, self.part :]
        far = self.DWConv_Kx1(self.DWConv_1xK(far * far.mean((2, 3), keepdim=True).sigmoid()))
        return F.gelu(self.conv1(torch.cat([far, rest], 1)))


class HybridFilter(nn.Module):
    """A depthwise 3x3 convolution beside the large kernels, mixed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.PLKB = PartialLargeKernel(width)
        self.DWConv3 = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        self.conv1 = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        return F.gelu(self.conv1(torch.cat([self.DWConv3(x), self.PLKB(x)], 1)))


def _near(pattern: str) -> Tensor:
    """Return which of the 16x16 pixels around a window it looks at: the window, and a 'star', 'cross' or 'corner'."""
    place = torch.arange(_SIDE + 2 * _REACH)
    last, half = len(place) - 1, len(place) // 2
    i, j = place[:, None], place[None, :]
    out_i, out_j = ((k < _REACH) | (k > last - _REACH) for k in (i, j))
    if pattern == "star":
        beyond = (out_i & (j == half)) | ((i == half) & out_j) | (out_i & out_j & ((i == j) | (i + j == last)))
    elif pattern == "cross":
        middle_i, middle_j = ((k == half) | (k == half - 1) for k in (i, j))
        beyond = (out_i & middle_j) | (middle_i & out_j)
    else:
        far_i, far_j = ((k < _REACH - 1) | (k > last - _REACH + 1) for k in (i, j))
        beyond = far_i & far_j
    return ((~out_i & ~out_j) | beyond).flatten().nonzero().squeeze(1)


class SharedAttention(nn.Module):
    """Attention of one head over groups of 64 pixels; the first of three blocks computes its weights for all of them.

    Args:
        width: channels.
        first: computes the weights; otherwise `forward` is given them.
        spread: the groups are grids over the whole image, not windows.
    """

    def __init__(self, width: int, first: bool, spread: bool) -> None:
        super().__init__()
        self.spread = spread
        self.to_q = nn.Linear(width, width, bias=False) if first else None
        self.to_kv = nn.Linear(width, 2 * width if first else width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def seen(self, x: Tensor) -> Tensor:
        """Return the pixels that each group looks at: (B * groups, K, C)."""
        raise NotImplementedError

    def bias(self) -> Tensor:
        """Return what is added to the similarity of the 64 pixels with the K: (64, K)."""
        raise NotImplementedError

    def forward(self, x: Tensor, attention: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map (B, C, h, w), sides of multiples of 8, to the same shape; return the weights as well.

        Args:
            attention: the first block's weights; None in the first block.
        """
        value = self.to_kv(self.seen(x))
        if attention is None:
            query = self.to_q(to_groups(x, _SIDE, _SIDE, self.spread)) * x.shape[1] ** -0.5  # type: ignore[misc]
            key, value = value.chunk(2, -1)
            attention = (query @ key.transpose(1, 2) + self.bias()).softmax(-1)
        return from_groups(self.to_out(attention @ value), x.shape, _SIDE, _SIDE, self.spread), attention


class WindowAttention(SharedAttention):
    """Of each window over itself and pixels around it in a pattern."""

    def __init__(self, width: int, first: bool, pattern: str) -> None:
        super().__init__(width, first, spread=False)
        self.near: Tensor
        self.register_buffer("near", _near(pattern), persistent=False)
        if first:
            self.rel_pos_bias = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, _SIDE**2, len(self.near)), std=0.02))

    def seen(self, x: Tensor) -> Tensor:
        """Return the pixels that each window looks at, zero beyond the image."""
        around = F.unfold(x, _SIDE + 2 * _REACH, padding=_REACH, stride=_SIDE)
        return around.unflatten(1, (x.shape[1], -1))[:, :, self.near].permute(0, 3, 2, 1).flatten(0, 1)

    def bias(self) -> Tensor:
        """Return the learned bias."""
        return self.rel_pos_bias[0]


class GridAttention(SharedAttention):
    """Of each grid over itself and pixels halfway between its own, along 'both' axes, its 'rows' or its 'columns'."""

    def __init__(self, width: int, first: bool, between: str) -> None:
        super().__init__(width, first, spread=True)
        self.rows, self.columns = (_SIDE - (between in ("both", axis)) for axis in ("columns", "rows"))
        if first:
            self.rel_pos_bias = nn.Embedding((2 * _SIDE - 1) ** 2, 1)
            extra = torch.empty(1, _SIDE**2, self.rows * self.columns)
            self.extra_pos_bias = nn.Parameter(nn.init.trunc_normal_(extra, std=0.02))
            place = torch.cartesian_prod(*[torch.arange(_SIDE)] * 2)
            apart = place[:, None] - place[None, :] + _SIDE - 1
            self.apart: Tensor
            self.register_buffer("apart", apart @ torch.tensor([2 * _SIDE - 1, 1]), persistent=False)

    def seen(self, x: Tensor) -> Tensor:
        """Return the grid's own pixels and those between them."""
        h, w = x.shape[2] // _SIDE, x.shape[3] // _SIDE
        top, left = h // 2 if self.rows < _SIDE else 0, w // 2 if self.columns < _SIDE else 0
        between = x[:, :, top : top + h * self.rows, left : left + w * self.columns]
        own = to_groups(x, _SIDE, _SIDE, spread=True)
        return torch.cat([own, to_groups(between, self.rows, self.columns, spread=True)], 1)

    def bias(self) -> Tensor:
        """Return the learned biases of relative places on the grid, and of places between."""
        return torch.cat([self.rel_pos_bias(self.apart)[..., 0], self.extra_pos_bias[0]], 1)


class AttentionLayer(nn.Module):
    """Attention and feed-forward, each of normalized features with a skip around it."""

    def __init__(self, attention: SharedAttention, width: int) -> None:
        super().__init__()
        self.cnorm, self.cnorm2 = ChannelNorm(width), ChannelNorm(width)
        self.attn, self.gfn = attention, GatedFeedForward(width)

    def forward(self, x: Tensor, attention: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map (B, width, h, w) to the same shape; return the attention's weights as well."""
        y, attention = self.attn(self.cnorm(x), attention)
        x = x + y
        return x + self.gfn(self.cnorm2(x)), attention


class ChannelAttention(nn.Module):
    """Attention of channels to channels, in each window or in each grid of pixels 8 apart."""

    def __init__(self, width: int, spread: bool) -> None:
        super().__init__()
        self.spread = spread
        self.temperature = nn.Parameter(torch.ones(1, 1, 1))
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * width, 3 * width, 3, 1, 1, groups=3 * width, bias=False)
        self.project_out = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w), sides of multiples of 8, to the same shape."""
        size = (x.shape[2] // _SIDE, x.shape[3] // _SIDE) if self.spread else (_SIDE, _SIDE)
        groups = to_groups(self.qkv_dwconv(self.qkv(x)), *size, self.spread)
        query, key, value = groups.transpose(1, 2).chunk(3, 1)
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        y = (query @ key.transpose(1, 2) * self.temperature).softmax(-1) @ value
        return self.project_out(from_groups(y.transpose(1, 2), x.shape, *size, self.spread))


class ChannelBlock(nn.Module):
    """Channel attention in windows and in grids, each with a feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.canorm1, self.canorm2, self.cnorm1, self.cnorm2 = (ChannelNorm(width) for _ in range(4))
        self.cttn1, self.cttn2 = ChannelAttention(width, spread=False), ChannelAttention(width, spread=True)
        self.gfn1, self.gfn2 = GatedFeedForward(width), GatedFeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        x = x + self.cttn1(self.canorm1(x))
        x = x + self.gfn1(self.cnorm1(x))
        x = x + self.cttn2(self.canorm2(x))
        return x + self.gfn2(self.cnorm2(x))


class NarrowingBody(nn.Module):
    """Three stages, each on a quarter of the channels less; what each sets aside meets at the end."""

    def __init__(self, width: int, first: bool) -> None:
        super().__init__()
        self.part = part = width // 4
        windows, grids = ("star", "cross", "corner"), ("both", "rows", "columns")
        for i in range(3):
            inner = (3 - i) * part
            setattr(self, f"LB{i + 1}", HybridFilter(inner + part))
            setattr(self, f"SLA{i + 1}", AttentionLayer(WindowAttention(inner, first, windows[i]), inner))
            setattr(self, f"SGA{i + 1}", AttentionLayer(GridAttention(inner, first, grids[i]), inner))
            setattr(self, f"pw{i + 1}", nn.Conv2d(*(width if i == 2 else inner + part,) * 2, 1))
        self.BlockC = ChannelBlock(width)

    def forward(self, x: Tensor, attention: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Map (B, width, h, w) to the same shape; return the weights of the six attentions as well."""
        kept: list[Tensor] = []
        weights: list[Tensor] = []
        for i in range(3):
            x = getattr(self, f"LB{i + 1}")(x)
            local, x = x[:, : self.part], x[:, self.part :]
            for kind in ("SLA", "SGA"):
                x, weight = getattr(self, f"{kind}{i + 1}")(x, attention[len(weights)] if attention else None)
                weights.append(weight)
            x = getattr(self, f"pw{i + 1}")(torch.cat([*(kept if i == 2 else ()), x, local], 1))
            if i < 2:
                kept.append(x[:, : self.part])
                x = x[:, self.part :]
        return self.BlockC(x), weights


class SpatialGate(nn.Module):
    """Weighs every pixel of every channel by a map from a coarse look at the features (RFANet's ESA, shortened)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(width // 4, 16)
        self.conv1 = nn.Conv2d(width, inner, 1)
        self.conv_f = nn.Conv2d(inner, inner, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, 2)
        self.conv3 = nn.Conv2d(inner, inner, 3, 1, 1)
        self.conv4 = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w), sides of 15 and more, to the same shape."""
        fine = self.conv1(x)
        coarse = self.conv3(F.max_pool2d(self.conv2(fine), 7, 3))
        coarse = F.interpolate(coarse, x.shape[-2:], mode="bilinear", align_corners=False)
        return x * self.conv4(coarse + self.conv_f(fine)).sigmoid()


class AttentionGroup(nn.Module):
    """The narrowing body and a 1x1 convolution with a skip around them, gated."""

    def __init__(self, width: int, first: bool) -> None:
        super().__init__()
        self.residual_layer = NarrowingBody(width, first)
        self.res_end = nn.Conv2d(width, width, 1)
        self.esa = SpatialGate(width)

    def forward(self, x: Tensor, attention: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Map (B, width, h, w) to the same shape; return the weights of the attentions as well."""
        y, attention = self.residual_layer(x, attention)
        return self.esa(self.res_end(y) + x), attention


@ARCH_REGISTRY.register()
class HAESR(nn.Module):
    """HAESR (team 6 of the NTIRE 2026 challenge on efficient super-resolution) on RGB in [0, 1]: 352,869 parameters.

    Attention weights are computed in the first group and used in all three. Sides are multiples of 8, and 16 at least.
    Grids span the whole image: a crop is not restored as it is inside the whole. Taps: 'head', 'block1' to 'block3',
    'body_end' (without the long skip), 'f_lr' (with it). There is no feature of HR size.

    Args:
        scale: enlargement; published 4.
        num_feat: width, a multiple of 4; published 48.
    """

    def __init__(self, scale: int = 4, num_feat: int = 48) -> None:
        super().__init__()
        self.input = nn.Conv2d(3, num_feat, 3, 1, 1)
        self.block0, self.block1, self.block2 = (AttentionGroup(num_feat, first=i == 0) for i in range(3))
        self.output = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.long_skip = nn.Identity()
        self.up = nn.Sequential(nn.Conv2d(num_feat, 3 * scale**2, 3, 1, 1), nn.PixelShuffle(scale))
        taps = {"head": "input", "body_end": "output", "f_lr": "long_skip"}
        taps |= {f"block{i + 1}": f"block{i}.esa" for i in range(3)}
        self.traits = Traits("image", scale, multiple=_SIDE, min_size=2 * _SIDE, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, 3, h, w) in [0, 1] to an HR image (N, 3, scale h, scale w)."""
        head = y = self.input(x)
        attention: Sequence[Tensor] = ()
        for group in (self.block0, self.block1, self.block2):
            y, attention = group(y, attention)
        return self.up(self.long_skip(self.output(y) + head))
