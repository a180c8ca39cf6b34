"""Transposed convolution computed as a small convolution and a pixel-shuffle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SubPixelDeconv(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` for square kernels and strides, several times faster on CPUs.

    Output pixel ``s q + r`` (stride s, phase r) only meets the kernel taps ``t = r + padding - s i`` of input pixels
    ``q + i``, so each of the s^2 phases is an ordinary convolution with a small kernel, and all of them one convolution
    with s^2 times the channels. The parameters keep the names and shapes of the transposed convolution.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, bias: as of ``nn.ConvTranspose2d``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int = 0,
        output_padding: int = 0, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, output_padding, bias=bias)
        k, s, p = kernel_size, stride, padding
        self.first = -((k - 1 - p) // s)  # the smallest and the largest i that any phase meets
        self.last = (s - 1 + p) // s
        shifts = torch.arange(self.first, self.last + 1)
        taps = torch.arange(s)[:, None] + p - s * shifts[None, :]
        taps = torch.where((taps >= 0) & (taps < k), taps, k)  # k: the column of zeros appended to the kernel
        self.taps: Tensor
        self.register_buffer("taps", taps.flatten(), persistent=False)

    def phase_weight(self) -> Tensor:
        """The kernel as that of a convolution: (out_channels * s * s, in_channels, n, n)."""
        s, n = self.stride[0], self.last - self.first + 1
        w = F.pad(self.weight, (0, 1, 0, 1))
        w = w.index_select(2, self.taps).index_select(3, self.taps)
        w = w.view(self.in_channels, self.out_channels, s, n, s, n).permute(1, 2, 4, 0, 3, 5)
        return w.reshape(-1, self.in_channels, n, n)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, in_channels, h, w) to (N, out_channels, (h - 1) s - 2 padding + kernel_size + output_padding, ...)."""
        s = self.stride[0]
        extra = self.kernel_size[0] - 2 * int(self.padding[0]) + self.output_padding[0]
        sizes = [(n - 1) * s + extra for n in x.shape[-2:]]
        pads = (-self.first, self.last + -(-extra // s) - 1)  # of no size, so that graphs of any size can be traced
        bias = None if self.bias is None else self.bias.repeat_interleave(s * s)
        if pads[0] == pads[1]:
            y = F.conv2d(x, self.phase_weight(), bias, padding=pads[0])
        else:
            y = F.conv2d(F.pad(x, pads * 2), self.phase_weight(), bias)
        return F.pixel_shuffle(y, s)[..., : sizes[0], : sizes[1]]
