"""Small pieces shared by the video networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import UserError, nearest
from kdsr_arch.ops.bicubic import upsample_bicubic

BASES = ('none', 'bilinear', 'bicubic')


def check_choice(network: str, name: str, value: str, known: tuple[str, ...]) -> str:
    """``value`` if it is one of ``known``, else a UserError that names the network's option."""
    if value not in known:
        raise UserError(f"{network}: {name} is '{value}'{nearest(str(value), known)}, expected one of "
                        f"{', '.join(known)}")
    return value


def check_window(network: str, num_frame: int, known: tuple[int, ...] = (3, 5, 7)) -> int:
    """``num_frame`` if the network is made for it, else a UserError."""
    if num_frame not in known:
        raise UserError(f'{network}: num_frame is {num_frame}, expected one of {", ".join(map(str, known))}')
    return num_frame


class PreActivationBlock(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), without normalisation: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Skip(nn.Sequential):
    """A sequence of layers with an identity around it."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
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
        self.kind = check_choice('network', 'base', kind, BASES)

    def forward(self, sr: Tensor, lq: Tensor) -> Tensor:
        """``sr`` (B, C, H, W) plus the enlarged ``lq`` (B, C, h, w)."""
        if self.kind == 'none':
            return sr
        if self.kind == 'bicubic':
            return sr + upsample_bicubic(lq, self.scale)
        return sr + F.interpolate(lq, scale_factor=self.scale, mode='bilinear', align_corners=False)


@torch.no_grad()
def start_near_base(last: nn.Conv2d, kind: str) -> None:
    """Shrinks the last convolution of a network with a base, whose training then starts from the base's quality."""
    if kind != 'none':
        last.weight.mul_(0.1)
        if last.bias is not None:
            last.bias.zero_()
