"""FastDVDnet, a cascade of three-frame U-blocks without motion compensation, for super-resolution and denoising.

Source: Tassano et al., "FastDVDnet: Towards Real-Time Deep Video Denoising Without Flow Estimation", CVPR 2020.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn

from kdsr_arch.archs.arch_util import Base, FusedHead, start_near_base
from kdsr_arch.errors import UserError, one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class FastDVDnet(nn.Module):
    """Five frames through two stages: (B, 5, C, h, w) -> (B, C, H, W); h, w multiples of 4.

    The first block restores the three middle frames from three triples, the second joins them. For super-resolution
    the second block ends in a sub-pixel convolution instead of a residual image: F^SR is the output of ``upsampler``
    (num_hr_feat channels at HR size), then one convolution and the enlarged center frame. At ``scale: 1`` with
    ``noise_map: true`` it is the authors' denoiser (2,479,096 parameters), with their weight names.

    How the distillation paper adapted it is not published; this head is ours. The three triples run as one batch, so
    that batch statistics in training come from all of them. Each process and each part of an accumulated batch has
    statistics of its own; tested and saved are the running ones of the first process, in averaged weights the newest.
    A batch of one window trains; ``norm: none`` is for those who want samples to be independent.

    Args:
        scale: enlargement factor; 1: denoiser without head.
        channels: widths at full, half and quarter size.
        num_interm: first convolution's channels per frame.
        num_hr_feat: channels of F^SR.
        color: 'rgb' or 'y'.
        norm: 'batch', or 'none' (convolutions with biases), for batches too small for statistics.
        noise_map: a second argument, the noise map (B, 1, h, w), is joined to every frame.
        base: what the head's output is added to: 'none', 'repeat', 'bilinear', 'bicubic' or 'legacy' of the center.
    """

    num_frame = 5

    def __init__(
        self,
        scale: int = 4,
        channels: tuple[int, int, int] = (32, 64, 128),
        num_interm: int = 30,
        num_hr_feat: int = 64,
        color: str = "rgb",
        norm: str = "batch",
        noise_map: bool = False,
        base: str = "bicubic",
    ) -> None:
        super().__init__()
        one_of("FastDVDnet", "norm", norm, ("batch", "none"))
        num_channel = 3 if one_of("FastDVDnet", "color", color, ("rgb", "y")) == "rgb" else 1
        if len(channels) != 3:
            raise UserError(f"FastDVDnet: channels is {list(channels)}, expected three widths")
        num_in, batch_norm = num_channel + int(noise_map), norm == "batch"
        self.noise_map = noise_map
        self.temp1 = UBlock(num_in, num_channel, channels, num_interm, batch_norm)
        num_out = num_channel if scale == 1 else num_hr_feat * scale**2
        self.temp2 = UBlock(num_in, num_out, channels, num_interm, batch_norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        self.scale = scale
        self.fused = False
        if scale > 1:
            self.upsampler = nn.PixelShuffle(scale)
            self.conv_last = nn.Conv2d(num_hr_feat, num_channel, 3, padding=1)
            self.base = Base(scale, base)
            start_near_base(self.conv_last, base)
        taps = {"f_sr": "upsampler", "f_lr": "temp2.feature"} if scale > 1 else {"f_lr": "temp2.feature"}
        self.traits = Traits("window", scale, self.num_frame, color, multiple=4, taps=taps)

    def forward(self, x: Tensor, noise_map: Tensor | None = None) -> Tensor:
        """Restore the center of five frames: (B, 5, C, h, w) in [0, 1], h and w multiples of 4, to (B, C, H, W).

        Args:
            x: the frames.
            noise_map: standard deviation of the noise, (B, 1, h, w); given exactly when built with ``noise_map``.

        Raises:
            UserError: a noise map that is missing or not expected.
        """
        if self.noise_map != (noise_map is not None):
            raise UserError("FastDVDnet takes a noise map exactly when built with noise_map: true")
        batch, center = x.shape[0], x[:, 2]
        triples = torch.cat([x[:, i : i + 3] for i in range(3)])
        middle = torch.cat([x[:, i] for i in (1, 2, 3)])
        maps = None if noise_map is None else noise_map.repeat(3, 1, 1, 1)
        stage1 = middle - self.temp1(triples, maps)
        out = self.temp2(stage1.unflatten(0, (3, batch)).transpose(0, 1), noise_map)
        if self.scale == 1:
            return stage1[batch : 2 * batch] - out
        return self.base(out if self.fused else self.conv_last(self.upsampler(out)), center)

    def for_inference(self) -> FastDVDnet:
        """Return a copy in evaluation mode, equal to rounding but without F^SR."""
        net = copy.deepcopy(self).eval()
        if self.scale > 1:
            last = cast(nn.Sequential, net.temp2.outc.convblock)
            last[3] = FusedHead(cast(nn.Conv2d, last[3]), net.conv_last, self.scale)
            net.fused = True
        return net


class UBlock(nn.Module):
    """A small U-net over three frames: (B, 3, C, h, w) -> (B, num_out, h, w)."""

    def __init__(
        self, num_in: int, num_out: int, channels: tuple[int, int, int], num_interm: int, batch_norm: bool
    ) -> None:
        super().__init__()
        full, half, quarter = channels
        self.inc = _layers(
            *_conv(3 * num_in, 3 * num_interm, batch_norm, groups=3), *_conv(3 * num_interm, full, batch_norm)
        )
        self.downc0 = _layers(*_conv(full, half, batch_norm, stride=2), _pair(half, batch_norm))
        self.downc1 = _layers(*_conv(half, quarter, batch_norm, stride=2), _pair(quarter, batch_norm))
        self.upc2 = _layers(_pair(quarter, batch_norm), _plain(quarter, 4 * half, batch_norm), nn.PixelShuffle(2))
        self.upc1 = _layers(_pair(half, batch_norm), _plain(half, 4 * full, batch_norm), nn.PixelShuffle(2))
        self.feature = nn.Identity()  # the block's output feature, for taps
        self.outc = _layers(*_conv(full, full, batch_norm), _plain(full, num_out, batch_norm))

    def forward(self, frames: Tensor, noise_map: Tensor | None) -> Tensor:
        """Map (B, 3, C, h, w), each with the noise map (B, 1, h, w) as one more channel, to (B, num_out, h, w)."""
        if noise_map is not None:
            noise = noise_map.unsqueeze(1).expand(-1, 3, -1, -1, -1)
            frames = torch.cat([frames, noise], 2)
        x0 = self.inc(frames.flatten(1, 2))
        x1 = self.downc0(x0)
        x2 = self.upc2(self.downc1(x1))
        return self.outc(self.feature(x0 + self.upc1(x1 + x2)))


def _layers(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(convblock=nn.Sequential(*layers)))  # the authors' name, so that their weights load


def _plain(num_in: int, num_out: int, batch_norm: bool, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, 3, stride, 1, groups=groups, bias=not batch_norm)


def _conv(num_in: int, num_out: int, batch_norm: bool, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    norm: nn.Module = nn.BatchNorm2d(num_out) if batch_norm else nn.Identity()
    return [_plain(num_in, num_out, batch_norm, stride, groups), norm, nn.ReLU(inplace=True)]


def _pair(width: int, batch_norm: bool) -> nn.Sequential:
    return _layers(*_conv(width, width, batch_norm), *_conv(width, width, batch_norm))
