"""SAN: second-order attention."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from basicsr.archs.arch_util import Upsample
from torch import Tensor, nn

from kdsr_arch.archs.arch_util import Skip, mean_shifts
from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY

POOLED_SIDE = 1000
"""Covariances of larger maps are taken over their middle."""


def matrix_square_root(a: Tensor, iterations: int = 5) -> Tensor:
    """Compute roots of symmetric positive matrices (N, C, C) by coupled Newton-Schulz steps (Li et al., CVPR 2018).

    Scaling by the trace first makes the iteration converge. To be run in float32 or float64: in bfloat16 the root is
    wrong by about 0.6 %, and in float16 the trace of features in 0..255 overflows to NaN.
    """
    trace = a.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp(min=1e-12)
    eye = 3 * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    scaled = a / trace
    z = 0.5 * (eye - scaled)
    y = scaled @ z
    for _ in range(iterations - 2):
        step = 0.5 * (eye - z @ y)
        y, z = y @ step, step @ z
    return 0.5 * y @ (eye - z @ y) * trace.sqrt()


def channel_covariance(x: Tensor) -> Tensor:
    """Return covariances of the channels over positions: (N, C, H, W) to (N, C, C)."""
    f = x.flatten(2)
    centered = f - f.mean(2, keepdim=True)
    return centered @ centered.transpose(1, 2) / f.shape[2]


class SecondOrderAttention(nn.Module):
    """Channel weights from the row means of the covariance's square root."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        inner = width // reduction
        self.conv_du = nn.Sequential(nn.Conv2d(width, inner, 1), nn.ReLU(), nn.Conv2d(inner, width, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each channel of (B, width, h, w) by its weight in (0, 1); statistics in float32 at least."""
        top, left = (max(n - POOLED_SIDE, 0) // 2 for n in x.shape[-2:])
        middle = x[:, :, top : top + POOLED_SIDE, left : left + POOLED_SIDE]
        with torch.autocast(x.device.type, enabled=False):
            middle = middle if middle.dtype == torch.float64 else middle.float()
            weights = matrix_square_root(channel_covariance(middle)).mean(1)
        return self.conv_du(weights.to(x.dtype)[:, :, None, None]) * x


class NonLocal(nn.Module):
    """Embedded-Gaussian attention from all positions to 2x2 maxima of keys and values, added to its input."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.g = nn.Sequential(nn.Conv2d(width, inner, 1), nn.MaxPool2d(2))
        self.W = nn.Conv2d(inner, width, 1)
        self.theta = nn.Conv2d(width, inner, 1)
        self.phi = nn.Sequential(nn.Conv2d(width, inner, 1), nn.MaxPool2d(2))
        for parameter in self.W.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w), h and w at least 2, to the same shape."""
        maps = (m(x).flatten(2) for m in (self.theta, self.phi, self.g))
        query, key, value = (m.transpose(1, 2)[:, None].contiguous() for m in maps)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.W(mixed[:, 0].transpose(1, 2).unflatten(2, x.shape[-2:]))


class QuadrantNonLocal(nn.Module):
    """The non-local block on each quadrant of the map."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        # In the published weights but not in the published forward pass.
        self.soca = SecondOrderAttention(width, 8).requires_grad_(False)
        self.non_local = NonLocal(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w), h and w at least 4, to the same shape."""
        rows = x.split([x.shape[2] // 2, x.shape[2] - x.shape[2] // 2], 2)
        halves = [x.shape[3] // 2, x.shape[3] - x.shape[3] // 2]
        return torch.cat([torch.cat([self.non_local(q) for q in row.split(halves, 3)], 3) for row in rows], 2)


class ResidualAttentionGroup(nn.Module):
    """Local-source residual attention group: residual blocks, second-order attention, convolution, skip."""

    def __init__(self, width: int, num_block: int, reduction: int) -> None:
        super().__init__()
        pairs = ([nn.Conv2d(width, width, 3, 1, 1) for _ in range(2)] for _ in range(num_block))
        bodies = (nn.Sequential(first, nn.ReLU(), second) for first, second in pairs)
        self.rcab = nn.Sequential(*(Skip(OrderedDict(conv_first=body)) for body in bodies))
        self.soca = SecondOrderAttention(width, reduction)
        self.conv_last = nn.Conv2d(width, width, 3, 1, 1)
        self.gamma = nn.Parameter(torch.zeros(1), requires_grad=False)  # in the published weights, unused there

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        return x + self.conv_last(self.soca(self.rcab(x)))


@ARCH_REGISTRY.register()
class SAN(nn.Module):
    """SAN (Dai et al., CVPR 2019) on RGB in [0, 1]; inside, it works on 0..255 as published.

    The teacher has 20 groups of 10 blocks (15,862,584 parameters at x4), FAKD's student 6 (4,997,618). Under
    autocast the second-order statistics stay in float32; everything else follows autocast. Taps: 'head', 'group1' ...,
    'body_end' (the last non-local output, without the long skip), 'body_end_skip' (with it; also 'f_lr'), 'f_sr', and
    'fakd_0' ... 'fakd_3' = head, two groups (6 and 13 of 20; 1 and 3 of 6; counted from 0), body_end.

    Args:
        scale: 2, 3, 4 or 8.
        num_group: local-source residual attention groups.
        num_block: residual blocks in each.
        num_feat: width.
        reduction: of the channel attention.
        nonlocal_reduction: ``num_feat`` over the width of the non-local block: 4 (FAKD's SAN, as counted above), or
            8 (the authors' SAN and weights).
        img_range: factor of the input inside the network.
    """

    def __init__(
        self, scale: int = 4, num_group: int = 20, num_block: int = 10, num_feat: int = 64, reduction: int = 16,
        nonlocal_reduction: int = 4, img_range: float = 255.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.img_range = img_range
        self.gamma = nn.Parameter(torch.zeros(1))
        self.sub_mean, self.add_mean = mean_shifts(img_range)
        self.head = nn.Sequential(nn.Conv2d(3, num_feat, 3, 1, 1))
        self.RG = nn.ModuleList(ResidualAttentionGroup(num_feat, num_block, reduction) for _ in range(num_group))
        self.non_local = QuadrantNonLocal(num_feat, num_feat // nonlocal_reduction)
        self.conv_last = nn.Conv2d(num_feat, num_feat, 3, 1, 1).requires_grad_(False)  # unused there, as gamma above
        self.group_out = nn.ModuleList(nn.Identity() for _ in range(num_group))
        self.body_end = nn.Identity()
        self.long_skip = nn.Identity()
        self.tail = nn.Sequential(Upsample(scale, num_feat), nn.Conv2d(num_feat, 3, 3, 1, 1))
        published = {20: (6, 13), 6: (1, 3)}
        thirds = math.ceil(num_group / 3) - 1, math.ceil(2 * num_group / 3) - 1
        first, second = published.get(num_group, thirds)
        taps = {f"group{i + 1}": f"group_out.{i}" for i in range(num_group)}
        taps |= {"body_end_skip": "long_skip", "f_lr": "long_skip", "f_sr": "tail.0"}
        fakd = ("head", f"group_out.{first}", f"group_out.{second}", "body_end")
        taps |= {f"fakd_{i}": path for i, path in enumerate(fakd)}
        self.traits = Traits("image", scale, taps=taps, min_size=4)

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, 3, h, w) in [0, 1], h and w >= 4, to an HR image (N, 3, scale h, scale w)."""
        head = self.head(self.sub_mean(x * self.img_range))
        shared = y = self.non_local(head)
        for group, out in zip(self.RG, self.group_out, strict=True):
            y = out(group(y) + self.gamma * shared)
        y = self.long_skip(self.body_end(self.non_local(y)) + head)
        return self.add_mean(self.tail(y)) / self.img_range
