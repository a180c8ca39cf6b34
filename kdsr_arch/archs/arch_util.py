"""Modules that several networks share."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import one_of
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.ops.legacy_resize import resize_legacy
from kdsr_arch.ops.warp import backward_warp


class Skip(nn.Sequential):
    """A sequence of layers with an identity around it."""

    def forward(self, x: Tensor) -> Tensor:
        """Add to ``x`` what the layers make of it, which must have its shape."""
        return x + super().forward(x)


def pre_activation_block(width: int) -> Skip:
    """Make x + conv(ReLU(conv(ReLU(x)))), without normalization: (B, width, h, w) -> (B, width, h, w)."""
    conv1, conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
    return Skip(OrderedDict(relu1=nn.ReLU(), conv1=conv1, relu2=nn.ReLU(), conv2=conv2))


class Base(nn.Module):
    """What a network adds its output to: the input enlarged, or nothing.

    Args:
        scale: enlargement factor.
        kind: 'none', 'repeat' (each pixel repeated), 'bilinear' (PyTorch's, corners not aligned), 'bicubic' (MATLAB's)
            or 'legacy' (TensorFlow 1's bicubic, which is in place on BD data).
        key: what option files call the kind, for messages.
    """

    def __init__(self, scale: int, kind: str, key: str = "base") -> None:
        super().__init__()
        self.scale = scale
        self.kind = one_of("network", key, kind, ("none", "repeat", "bilinear", "bicubic", "legacy"))

    def forward(self, sr: Tensor, lq: Tensor) -> Tensor:
        """Add the enlarged ``lq`` (B, C, h, w) to ``sr`` (B, C, H, W)."""
        if self.kind == "none":
            return sr
        if self.kind == "bicubic":
            return sr + upsample_bicubic(lq, self.scale)
        if self.kind == "legacy":
            return sr + resize_legacy(lq, lq.shape[-2] * self.scale, lq.shape[-1] * self.scale)
        if self.kind == "repeat":
            copies = lq.unsqueeze(2).expand(-1, -1, self.scale**2, -1, -1)
            return sr + F.pixel_shuffle(copies.flatten(1, 2), self.scale)
        return sr + F.interpolate(lq, scale_factor=self.scale, mode="bilinear", align_corners=False)


class FusedHead(nn.Module):
    """convolution, pixel-shuffle, convolution as one 5x5 convolution and a pixel-shuffle, for inference.

    All three are linear, so a feature map of HR size is needed in training only. At the image's border the second
    convolution pads HR features with zeros, which no LR kernel can express: the outermost HR pixels come from the
    original layers, run on two LR rows or columns. Equal to them to rounding.

    Args:
        conv_up: 3x3, num_feat -> num_hr_feat * scale**2.
        conv_last: 3x3, num_hr_feat -> num_channel.
        scale: of the pixel-shuffle between them.
    """

    def __init__(self, conv_up: nn.Conv2d, conv_last: nn.Conv2d, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.exact = nn.Sequential(conv_up, nn.PixelShuffle(scale), conv_last)
        self.conv = nn.Conv2d(conv_up.in_channels, conv_last.out_channels * scale**2, 5, padding=2).to(conv_up.weight)
        self._compose(conv_up.in_channels)

    @torch.no_grad()
    def _compose(self, num_feat: int) -> None:
        """Read the 5x5 kernel off the response of the layers to one impulse per input channel."""
        impulse = torch.zeros(num_feat + 1, num_feat, 7, 7).to(self.conv.weight)  # the last image is zero: the bias
        impulse[torch.arange(num_feat), torch.arange(num_feat), 3, 3] = 1
        response = F.pixel_unshuffle(self.exact(impulse), self.scale)[..., 1:6, 1:6]
        bias = response[-1, :, 2, 2]
        cast(Tensor, self.conv.bias).copy_(bias)
        self.conv.weight.copy_((response[:-1] - bias.view(-1, 1, 1)).flip(2, 3).transpose(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map LR features (B, num_feat, h, w) to the image (B, num_channel, h * scale, w * scale)."""
        if min(x.shape[-2:]) < 3:
            return self.exact(x)
        sr = F.pixel_shuffle(self.conv(x), self.scale)
        sr[..., :1, :] = self.exact(x[..., :2, :])[..., :1, :]
        sr[..., -1:, :] = self.exact(x[..., -2:, :])[..., -1:, :]
        sr[..., :1] = self.exact(x[..., :2])[..., :1]
        sr[..., -1:] = self.exact(x[..., -2:])[..., -1:]
        return sr


@torch.no_grad()
def start_near_base(last: nn.Module, kind: str) -> None:
    """Shrink the last convolution of a network with a base, whose training then starts from the base's quality."""
    for name, parameter in last.named_parameters() if kind != "none" else ():
        parameter.mul_(0.0 if name.endswith("bias") else 0.1)


@torch.no_grad()
def start_as_xavier(net: nn.Module) -> None:
    """Draw the kernels of all convolutions from Xavier's uniform distribution and clear their biases, as TF 1 does."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def carry_input(first: nn.Conv2d, last: nn.Conv2d, count: int, scale: int) -> None:
    """Let a network's training start from its input with each pixel repeated.

    Args:
        first: a 3x3 convolution of the image, whose last ``count`` features shall be copies of it.
        last: the 3x3 convolution before the pixel-shuffle, which shall add them up.
        count: number of such features, at least the image's channels.
        scale: of the pixel-shuffle.
    """
    first.weight[-count:, :, 1, 1] += torch.eye(count, first.in_channels)
    last.weight[:, -count:, 1, 1] += torch.eye(first.in_channels, count).repeat_interleave(scale**2, 0)


DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class MeanShift(nn.Module):
    """Adds a constant color to RGB, as the frozen 1x1 convolution of 12 parameters that published weights hold."""

    def __init__(self, shift: Sequence[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3).view(3, 3, 1, 1), requires_grad=False)
        self.bias = nn.Parameter(torch.tensor(shift), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add the color to RGB (B, 3, h, w)."""
        return F.conv2d(x, self.weight, self.bias)


def mean_shifts(img_range: float = 1.0) -> tuple[MeanShift, MeanShift]:
    """Return the shifts that subtract and add the mean color of images in 0..img_range."""
    mean = [img_range * m for m in DIV2K_MEAN]
    return MeanShift([-m for m in mean]), MeanShift(mean)


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
        self.extra = k - 2 * p + output_padding  # of n pixels a side come (n - 1) s + extra
        self.pads = (-self.first, self.last + -(-self.extra // s) - 1)  # of no size, so that any size can be traced
        shifts = torch.arange(self.first, self.last + 1)
        taps = torch.arange(s)[:, None] + p - s * shifts[None, :]
        taps = torch.where((taps >= 0) & (taps < k), taps, k)  # k: the column of zeros appended to the kernel
        self.taps: Tensor
        self.register_buffer("taps", taps.flatten(), persistent=False)

    @property
    def multiply_adds_per_pixel(self) -> int:
        """Those of the transposed convolution: without the zeros that make all phases of one size."""
        return self.weight.numel()

    def phase_weight(self) -> Tensor:
        """Return the kernel as that of a convolution: (out_channels * s * s, in_channels, n, n)."""
        s, n = self.stride[0], self.last - self.first + 1
        w = F.pad(self.weight, (0, 1, 0, 1))
        w = w.index_select(2, self.taps).index_select(3, self.taps)
        w = w.view(self.in_channels, self.out_channels, s, n, s, n).permute(1, 2, 4, 0, 3, 5)
        return w.reshape(-1, self.in_channels, n, n)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Map (N, C, h, w) to (N, out_channels, (h - 1) s - 2 padding + kernel_size + output_padding, ...)."""
        s = self.stride[0]
        sizes = [(n - 1) * s + self.extra for n in x.shape[-2:]]
        bias = None if self.bias is None else self.bias.repeat_interleave(s * s)
        if self.pads[0] == self.pads[1]:
            y = F.conv2d(x, self.phase_weight(), bias, padding=self.pads[0])
        else:
            y = F.conv2d(F.pad(x, self.pads * 2), self.phase_weight(), bias)
        return F.pixel_shuffle(y, s)[..., : sizes[0], : sizes[1]]


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME does: at stride 2, of sides that it divides, less before than after.

    Args:
        num_in, num_out, kernel, stride: as of ``nn.Conv2d``; padding follows from them.
    """

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(num_in, num_out, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, num_in, h, w), h and w multiples of the stride, to (B, num_out, h / stride, w / stride)."""
        more = self.kernel_size[0] - self.stride[0]
        return super().forward(F.pad(x, (more // 2, more - more // 2) * 2))


def flow_net(num_in: int, num_feat: int, strides: Sequence[int], same: bool = False) -> nn.Sequential:
    """Make convolutions with ReLU between, tanh and pixel-shuffle: (B, num_in, h, w) -> (B, 2, h, w), at first zero.

    Args:
        num_feat: width.
        strides: one for each convolution; kernels are 5x5 at stride 2, else 3x3.
        same: pad as TensorFlow does (see SameConv2d), not by half the kernel.
    """
    layers: list[nn.Module] = []
    for i, stride in enumerate(strides):
        first, last, kernel = i == 0, i == len(strides) - 1, 5 if stride == 2 else 3
        sizes = (num_in if first else num_feat, 2 * math.prod(strides) ** 2 if last else num_feat, kernel, stride)
        conv = SameConv2d(*sizes) if same else nn.Conv2d(*sizes, kernel // 2)
        layers += [conv, nn.Tanh() if last else nn.ReLU(inplace=True)]
    for parameter in layers[-2].parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(*layers, nn.PixelShuffle(math.prod(strides)))


class CenterFlow(nn.Module):
    """Flow from every frame of a window to its center frame, which is its own target too; classes below estimate it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Estimate the flows of luma (B, T, 1, h, w).

        Returns:
            What MotionCompensationLoss takes: the center frame warped onto each frame (B, T, h, w), the flows
            (B, T*2, h, w) as (dx, dy) in LR pixels, and the frames (B, T, h, w).
        """
        count, frames = x.shape[1], x.flatten(0, 1)
        center = x[:, count // 2].repeat_interleave(count, 0)
        flow = self.flow(frames, center)
        parts = (self.warped(center, flow), flow, frames)
        warped, flow, frames = (part.unflatten(0, (-1, count)).flatten(1, 2) for part in parts)
        return warped, flow, frames

    def flow(self, frame: Tensor, center: Tensor) -> Tensor:
        """Return the flow (N, 2, h, w) that takes pixels of ``frame`` to where ``center`` shows them, (N, 1, h, w)."""
        raise NotImplementedError

    @staticmethod
    def warped(image: Tensor, flow: Tensor) -> Tensor:
        """Warp an image backward, within [0, 1]; beyond its border is the nearest pixel."""
        return backward_warp(image, flow, border="border").clamp(0, 1)
