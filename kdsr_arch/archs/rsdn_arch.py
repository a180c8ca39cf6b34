"""RSDN: a recurrent network that carries structure and detail of the frames in two streams.

Source: Isobe et al., "Video Super-Resolution with Recurrent Structure-Detail Network", ECCV 2020; numbers that the
paper does not give are those of the authors' code (class RSDN9_128).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.archs.arch_util import Base, start_near_base
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.structure import structure_of
from kdsr_arch.registry import ARCH_REGISTRY

_SCALE = 4


class SDBlock(nn.Module):
    """Two streams (B, C, h, w), each with a residual branch; the sum of both branches is added to both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_d1, self.conv_d2, self.conv_s1, self.conv_s2 = (_conv(width, width) for _ in range(4))

    def forward(self, detail: Tensor, structure: Tensor) -> tuple[Tensor, Tensor]:
        """Return both streams."""
        both = self.conv_d2(self.conv_d1(detail).relu()) + self.conv_s2(self.conv_s1(structure).relu())
        return detail + both, structure + both


class State(NamedTuple):
    """What goes from frame to frame: the memory (B, num_feat, h, w) and both outputs (B, 48, h, w) at LR size."""

    memory: Tensor
    detail: Tensor
    structure: Tensor


@ARCH_REGISTRY.register()
class RSDN(nn.Module):
    """Recurrent structure-detail network: RGB clips (B, T, 3, h, w) in [0, 1] -> (B, T, 3, 4h, 4w); h, w even, T >= 2.

    A frame sees those before it only, but for the first, which is given the second in the place of one before it.
    There is no wide feature at HR size; ``f_lr`` is the memory that goes to the next frame. ``structure`` and
    ``detail`` return the two images (B, T, 3, 4h, 4w) that StructureDetailLoss compares with those of the ground truth.
    The authors' training code was never published.

    Args:
        num_feat: channels of each stream.
        num_block: structure-detail blocks.
        base: what the output is added to: 'none' (published), 'repeat', 'bilinear', 'bicubic' or 'legacy'.
    """

    def __init__(self, num_feat: int = 128, num_block: int = 9, base: str = "none") -> None:
        super().__init__()
        num_out = 3 * _SCALE**2
        self.num_feat = num_feat
        self.forget = nn.Conv2d(3, 9, 3, padding=1)
        self.conv_d, self.conv_s = (_conv(6 + num_feat + num_out, num_feat) for _ in range(2))
        self.blocks = nn.ModuleList(SDBlock(num_feat) for _ in range(num_block))
        self.conv_hd, self.conv_hs = (_conv(num_feat, num_feat) for _ in range(2))
        self.conv_od, self.conv_os = (_conv(num_feat, num_out) for _ in range(2))
        self.conv_last = _conv(2 * num_out, num_out)
        self.memory, self.detail, self.structure = nn.Identity(), nn.Identity(), nn.Identity()
        self.base = Base(_SCALE, base)
        start_near_base(self.conv_last, base)
        self.traits = Traits("recurrent", _SCALE, multiple=2, min_size=2, min_clip=2, taps={"f_lr": "memory"})

    def forward(self, x: Tensor) -> Tensor:
        """Restore all frames of clips (B, T, 3, h, w)."""
        batch, count, _, height, width = x.shape
        structures = structure_of(x)
        details = x - structures
        outputs = x.new_zeros(batch, 3 * _SCALE**2, height, width)
        state = State(x.new_zeros(batch, self.num_feat, height, width), outputs, outputs)
        states = []
        for t in range(count):
            before = t - 1 if t else 1
            detail, structure = (torch.cat((part[:, before], part[:, t]), 1) for part in (details, structures))
            state = self.step(x[:, t], detail, structure, state)
            states.append(state)
        detail, structure = (torch.stack([getattr(s, name) for s in states], 1) for name in ("detail", "structure"))
        for image, lr in ((self.detail, detail), (self.structure, structure)):
            image(F.pixel_shuffle(lr, _SCALE))
        sr = F.pixel_shuffle(self.conv_last(torch.cat((detail, structure), 2).flatten(0, 1)), _SCALE)
        return self.base(sr, x.flatten(0, 1)).unflatten(0, (batch, count))

    def step(self, frame: Tensor, details: Tensor, structures: Tensor, state: State) -> State:
        """Restore one frame (B, 3, h, w), given its details and structure behind those of the frame before."""
        memory = self.adapt(frame, state.memory)
        d = F.leaky_relu(self.conv_d(torch.cat((details, memory, state.detail), 1)), 0.1)
        s = F.leaky_relu(self.conv_s(torch.cat((structures, memory, state.structure), 1)), 0.1)
        for block in self.blocks:
            d, s = block(d, s)
        memory = self.memory(F.leaky_relu(self.conv_hd(d), 0.1) + F.leaky_relu(self.conv_hs(s), 0.1))
        return State(memory, self.conv_od(d), self.conv_os(s))

    def adapt(self, frame: Tensor, memory: Tensor) -> Tensor:
        """Weigh the memory by how much it is like the frame: a 3x3 filter for each pixel, made of the frame."""
        height, width = frame.shape[-2:]
        filters, padded = F.leaky_relu(self.forget(frame), 0.1), F.pad(memory, (1, 1, 1, 1))
        places = [(i, j) for i in range(3) for j in range(3)]
        near = (filters[:, k : k + 1] * padded[..., i : i + height, j : j + width] for k, (i, j) in enumerate(places))
        return memory * torch.stack([*near]).sum(0).sigmoid()


def _conv(num_in: int, num_out: int) -> nn.Conv2d:
    """Make a 3x3 convolution with the authors' start: a tenth of Kaiming's normal distribution, no bias."""
    conv = nn.Conv2d(num_in, num_out, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight)
    conv.weight.data.mul_(0.1)
    nn.init.constant_(cast(Tensor, conv.bias), 0)
    return conv
