"""ETDS: a plain network with a skip from input to output, but none in its graph: the input rides in the features."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from kdsr_arch.archs.arch_util import carry_input
from kdsr_arch.archs.ecbsr_arch import PlainSR
from kdsr_arch.archs.reparam import BranchedConv
from kdsr_arch.registry import ARCH_REGISTRY


class CarryingConv(BranchedConv):
    """A 3x3 convolution whose last output channels carry an image on and see nothing but what carried it so far.

    Args:
        in_channels, out_channels: as of ``nn.Conv2d``, the carrying ones included.
        carried_in, carried_out: how many of them carry the image. Training starts with copies of the image carried on,
            and with other outputs that do not see it.
    """

    def __init__(self, in_channels: int, out_channels: int, carried_in: int, carried_out: int) -> None:
        super().__init__(in_channels, out_channels)
        conv = nn.Conv2d(in_channels, out_channels - carried_out, 3, padding=1)
        self.weight, self.bias = conv.weight, conv.bias
        self.carry = nn.Parameter(nn.init.dirac_(torch.empty(carried_out, carried_in, 3, 3)))
        self.carry_bias = nn.Parameter(torch.zeros(carried_out))
        with torch.no_grad():
            self.weight[:, in_channels - carried_in :] = 0

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Return the weight, zero from other channels to those that carry, and the bias."""
        blind = self.carry.new_zeros(self.carry.shape[0], self.in_channels - self.carry.shape[1], 3, 3)
        carry = torch.cat([blind, self.carry], 1)
        return torch.cat([self.weight, carry]), torch.cat([self.bias, self.carry_bias])  # type: ignore[list-item]


@ARCH_REGISTRY.register()
class ETDS(PlainSR):
    """ETDS (Chao et al., CVPR 2023): convolutions and ReLUs alone, folded to ``PlainSR(act='relu', residual='none')``.

    19,008 parameters folded at x4 (M5C16, ETDS-T: published as 21,360 with two layers that clip to [0, 1], which every
    output here is anyway); ETDS-S is 4 x 32 (51,760), M 6 x 32 (70,256), L 7 x 48 (167,616). Published weights are in
    the folded form. The authors hold the carrying kernels fixed at first and compare the carried image with the ground
    truth as well; neither is done here. Taps as of ``PlainSR``.

    Args:
        scale, num_in_ch, num_feat, num_block: as of ``PlainSR``.
        num_carried: features that carry the image on; at least ``num_in_ch``.
    """

    def __init__(
        self, scale: int = 4, num_in_ch: int = 3, num_feat: int = 16, num_block: int = 5, num_carried: int = 3
    ) -> None:
        super().__init__(scale, num_in_ch, num_feat, num_block, act="relu", residual="none")
        if not num_in_ch <= num_carried < num_feat:
            raise ValueError(f"num_carried must be at least num_in_ch and below num_feat, not {num_carried}")
        layers: list[Any] = [self.head, *self.body]
        for layer in layers[1:]:
            layer[0] = CarryingConv(num_feat, num_feat, num_carried, num_carried)
        first, last = layers[0][0], cast(nn.Conv2d, self.tail)
        with torch.no_grad():
            for parameter in (first.weight[-num_carried:], first.bias[-num_carried:], last.weight[:, -num_carried:]):
                parameter.zero_()
        carry_input(first, last, num_carried, scale)
