"""Small pieces shared by the video networks."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import UserError, nearest
from kdsr_arch.ops.bicubic import upsample_bicubic

BASES = ("none", "bilinear", "bicubic")


def check_choice(network: str, name: str, value: str, known: tuple[str, ...]) -> str:
    """``value`` if it is one of ``known``, else a UserError that names the network's option."""
    if value not in known:
        raise UserError(
            f"{network}: {name} is '{value}'{nearest(str(value), known)}, expected one of {', '.join(known)}"
        )
    return value


def check_window(network: str, num_frame: int, known: tuple[int, ...] = (3, 5, 7)) -> int:
    """``num_frame`` if the network is made for it, else a UserError."""
    if num_frame not in known:
        raise UserError(f"{network}: num_frame is {num_frame}, expected one of {', '.join(map(str, known))}")
    return num_frame


class PreActivationBlock(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), without normalisation: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, h, w) to the same shape."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Skip(nn.Sequential):
    """A sequence of layers with an identity around it."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        """``x`` plus what the layers make of it, which must have its shape."""
        return x + super().forward(x)


class Base(nn.Module):
    """What a network adds its output to: the input enlarged, or nothing.

    Args:
        scale: enlargement factor.
        kind: 'none', 'bilinear' (PyTorch's, corners not aligned) or 'bicubic' (MATLAB's).
    """

    def __init__(self, scale: int, kind: str) -> None:
        super().__init__()
        self.scale = scale
        self.kind = check_choice("network", "base", kind, BASES)

    def forward(self, sr: Tensor, lq: Tensor) -> Tensor:
        """``sr`` (B, C, H, W) plus the enlarged ``lq`` (B, C, h, w)."""
        if self.kind == "none":
            return sr
        if self.kind == "bicubic":
            return sr + upsample_bicubic(lq, self.scale)
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
        """Reads the 5x5 kernel off the response of the layers to one impulse per input channel."""
        impulse = torch.zeros(num_feat + 1, num_feat, 7, 7).to(self.conv.weight)  # the last image is zero: the bias
        impulse[torch.arange(num_feat), torch.arange(num_feat), 3, 3] = 1
        response = F.pixel_unshuffle(self.exact(impulse), self.scale)[..., 1:6, 1:6]
        bias = response[-1, :, 2, 2]
        cast(Tensor, self.conv.bias).copy_(bias)
        self.conv.weight.copy_((response[:-1] - bias.view(-1, 1, 1)).flip(2, 3).transpose(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """LR features (B, num_feat, h, w) to the image (B, num_channel, h * scale, w * scale)."""
        if min(x.shape[-2:]) < 3:
            return self.exact(x)
        sr = F.pixel_shuffle(self.conv(x), self.scale)
        sr[..., :1, :] = self.exact(x[..., :2, :])[..., :1, :]
        sr[..., -1:, :] = self.exact(x[..., -2:, :])[..., -1:, :]
        sr[..., :1] = self.exact(x[..., :2])[..., :1]
        sr[..., -1:] = self.exact(x[..., -2:])[..., -1:]
        return sr


@torch.no_grad()
def start_near_base(last: nn.Conv2d, kind: str) -> None:
    """Shrinks the last convolution of a network with a base, whose training then starts from the base's quality."""
    if kind != "none":
        last.weight.mul_(0.1)
        if last.bias is not None:
            last.bias.zero_()
