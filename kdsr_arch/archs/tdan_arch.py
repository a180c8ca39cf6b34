"""TDAN: every frame of a window aligned to its center by deformable convolutions, without optical flow.

Source: Tian et al., "TDAN: Temporally-Deformable Alignment Network for Video Super-Resolution", CVPR 2020; numbers that
the paper does not give are those of the authors' code (class TDAN_VSR).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from kdsr_arch.archs.arch_util import Base, Skip, start_near_base
from kdsr_arch.errors import one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.deform_conv import deform_conv2d
from kdsr_arch.ops.exporting import deform_conv_by_grid, exporting
from kdsr_arch.registry import ARCH_REGISTRY

_GRAY = 0.5  # the network works on image - 0.5, so that what it pads with is mid gray


class AlignConv(nn.Module):
    """A 3x3 deformable convolution without mask and bias (DCNv1): (B, C, h, w) -> (B, C, h, w).

    Args:
        num_feat: channels.
        border: what lies outside of the map, see TDAN.
    """

    def __init__(self, num_feat: int, border: str) -> None:
        super().__init__()
        self.border = border
        self.weight = nn.Parameter(torch.empty(num_feat, num_feat, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Convolve ``x`` at positions moved by ``offset`` (B, groups * 18, h, w), in pixels, dy before dx."""
        mask = torch.ones_like(offset[:, ::2])
        if self.border == "dcn_v1":
            offset, mask = stop_at_border(offset)
        if exporting():
            return deform_conv_by_grid(x, offset, mask, self.weight, None)
        return deform_conv2d(x, offset, self.weight, padding=1, mask=mask)


def stop_at_border(offset: Tensor) -> tuple[Tensor, Tensor]:
    """Express the border of the first deformable convolutions by the offsets and mask of today's.

    There a sample outside of the map is 0 as a whole, and one between the last pixel and the end is the last pixel.

    Args:
        offset: (B, groups * 18, h, w) of a 3x3 kernel, stride 1, padding 1.

    Returns:
        Offsets of the same shape, and the mask (B, groups * 9, h, w).
    """
    height, width = offset.shape[-2:]
    offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
    dy, dx = offset.unflatten(1, (-1, 9, 2)).unbind(3)
    tap = torch.arange(9, device=offset.device).view(9, 1, 1)
    row = torch.arange(height, device=offset.device).view(-1, 1) + tap // 3 - 1
    column = torch.arange(width, device=offset.device) + tap % 3 - 1
    y, x = dy + row, dx + column
    mask = (y >= 0) & (x >= 0) & (y < height) & (x < width)
    # not clamp(max=...), which takes no symbolic side in every exporter
    y, x = (torch.minimum(p, torch.ones_like(p) * (side - 1)) for p, side in ((y, height), (x, width)))
    return torch.stack((y - row, x - column), 3).flatten(1, 3), mask.to(offset.dtype).flatten(1, 2)


@ARCH_REGISTRY.register()
class TDAN(nn.Module):
    """Temporally deformable alignment: RGB (B, n, 3, h, w) in [0, 1] -> (B, 3, 4h, 4w).

    F^SR is the output of ``up.0`` (num_feat channels at HR size). The module ``motion`` returns (aligned, reference):
    the neighbors' aligned pictures and the center frame, what MotionCompensationLoss takes. The published loss is MSE
    and 0.25 times the mean square over all frames, the center's being 0: for five frames ``{type:
    MotionCompensationLoss, student: motion, smoothness: 0, loss_weight: 0.05}``.

    The authors test with frames mirrored at a clip's start, and at its end the frame n-3 for every one that is missing.

    Args:
        num_frame: frames of a window, odd.
        num_feat: channels throughout.
        num_extract_block: residual blocks on each frame.
        num_block: residual blocks of the reconstruction.
        deformable_groups: groups of channels with offsets of their own.
        border: 'dcn_v1': that of the authors' kernel, for their weights (see ``stop_at_border``); 'zeros':
            torchvision's, under which samples fade out within a pixel.
        base: what the output is added to: 'none' (published), 'repeat', 'bilinear', 'bicubic' or 'legacy'.
    """

    def __init__(
        self, num_frame: int = 5, num_feat: int = 64, num_extract_block: int = 5, num_block: int = 10,
        deformable_groups: int = 8, border: str = "dcn_v1", base: str = "none",
    ) -> None:  # fmt: skip
        super().__init__()
        one_of("TDAN", "border", border, ("dcn_v1", "zeros"))
        one_of("TDAN", "num_frame", num_frame, (3, 5, 7))
        # module names are the authors', so that their weights load
        self.conv_first = _conv(3, num_feat)
        self.residual_layer = nn.Sequential(*(_block(num_feat) for _ in range(num_extract_block)))
        self.cr = _conv(2 * num_feat, num_feat)
        self.off2d_1, self.off2d_2, self.off2d_3, self.off2d = (_conv(num_feat, 18 * deformable_groups) for _ in "1234")
        self.dconv_1, self.deconv_2, self.deconv_3, self.dconv = (AlignConv(num_feat, border) for _ in "1234")
        self.recon_lr = _conv(num_feat, 3)
        self.motion = _Pair()
        self.fea_ex = nn.Sequential(_conv(3 * num_frame, num_feat), nn.ReLU())
        self.recon_layer = nn.Sequential(*(_block(num_feat) for _ in range(num_block)))
        shuffles = (layer for _ in range(2) for layer in (_conv(num_feat, 4 * num_feat), nn.PixelShuffle(2)))
        last = _conv(num_feat, 3, bias=False)
        self.up = nn.Sequential(nn.Sequential(*shuffles), last)
        self.base = Base(4, base)
        start_near_base(last, base)
        taps = {"f_sr": "up.0", "f_lr": "recon_layer"}
        self.traits = Traits("window", 4, num_frame, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (B, num_frame, 3, h, w) to the center frame (B, 3, 4h, 4w)."""
        count = x.shape[1]
        half, gray = count // 2, x - _GRAY
        center = gray[:, half]
        features = self.residual_layer(self.conv_first(gray.flatten(0, 1)).relu()).unflatten(0, (-1, count))
        neighbors = torch.cat((features[:, :half], features[:, half + 1 :]), 1).flatten(0, 1)
        reference = features[:, half].repeat_interleave(count - 1, 0)
        aligned, _ = self.motion(self.align(reference, neighbors).unflatten(0, (-1, count - 1)).flatten(1, 2), center)
        frames = torch.cat((aligned[:, : 3 * half], center, aligned[:, 3 * half :]), 1)
        sr = self.up(self.recon_layer(self.fea_ex(frames)))
        return self.base(sr, x[:, half]) if self.base.kind != "none" else sr + _GRAY

    def align(self, reference: Tensor, neighbor: Tensor) -> Tensor:
        """Return pictures (N, 3, h, w), less 0.5, of neighbors aligned to references, both features (N, C, h, w)."""
        f = self.cr(torch.cat((reference, neighbor), 1))
        f = self.dconv_1(f, self.off2d_1(f))
        f = self.deconv_2(f, self.off2d_2(f))
        f = self.deconv_3(neighbor, self.off2d_3(f))
        return self.recon_lr(self.dconv(f, self.off2d(f)))


class _Pair(nn.Module):
    """Returns what it is given, for taps."""

    def forward(self, aligned: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Return both."""
        return aligned, reference


def _conv(num_in: int, num_out: int, bias: bool = True) -> nn.Conv2d:
    """Make a 3x3 convolution with the authors' start: a normal distribution of variance 2 / (9 num_out)."""
    conv = nn.Conv2d(num_in, num_out, 3, padding=1, bias=bias)
    nn.init.normal_(conv.weight, std=(2 / (9 * num_out)) ** 0.5)
    return conv


def _block(width: int) -> Skip:
    """Make x + conv(ReLU(conv(x))): (B, width, h, w) -> (B, width, h, w)."""
    return Skip(OrderedDict(conv1=_conv(width, width), relu=nn.ReLU(), conv2=_conv(width, width)))
