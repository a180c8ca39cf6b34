"""RLSP: a plain network for real time that is given its memory and its output of the frame before.

Source: Fuoli et al., "Efficient Video Super-Resolution through Recurrent Latent Space Propagation", ICCVW 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.archs.arch_util import Base, start_near_base
from kdsr_arch.archs.vespcn_arch import MotionCompensation
from kdsr_arch.errors import one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.warp import backward_warp
from kdsr_arch.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class RLSP(nn.Module):
    """Recurrent latent space propagation: RGB clips (B, T, 3, h, w) in [0, 1] -> (B, T, 3, scale h, scale w).

    Each frame is restored by a row of 3x3 convolutions in LR, which are given the frame, the one before and the one
    after it, the memory of the frame before and its output at LR size. At the ends of a clip the frame itself stands
    for the one that is missing; memory and output start as zeros. The authors' network restores luma alone, and chroma
    is enlarged; this one restores RGB. Defaults are those of RLSP 7-128.

    The first convolution is the sum of two: ``head``, of the frame, and ``around``, of all else, which starts at zero.
    The others are named as those of ``PlainSR``, whose weights can so be the start (``strict_load_g: false``), also
    those of a narrower one: the network then is that image network, until it has learnt what to do with the rest.
    With ``motion`` all that comes from another frame is first warped onto this one, as FRVSR warps its output (Sajjadi
    et al., CVPR 2018), here along VESPCN's flow. Taps: 'f_lr', the last feature map; 'memory'; the module ``motion``
    returns what MotionCompensationLoss takes.

    Args:
        scale: enlargement.
        num_feat: width, and channels of the memory.
        num_block: convolutions between the first and the last.
        act: 'relu' (published) or 'prelu' (one slope a channel).
        base: what the output is added to: 'none', 'repeat' (published), 'bilinear', 'bicubic' or 'legacy'.
        motion: compensate motion; not published.
        num_flow_feat, max_flow: see MotionCompensation.
    """

    def __init__(
        self, scale: int = 4, num_feat: int = 128, num_block: int = 5, act: str = "relu", base: str = "repeat",
        motion: bool = False, num_flow_feat: int = 24, max_flow: float = 8.0,
    ) -> None:  # fmt: skip
        super().__init__()
        one_of("RLSP", "act", act, ("prelu", "relu"))
        num_out = 3 * scale**2

        def layer(width: int) -> nn.Sequential:
            slope = nn.PReLU(num_feat) if act == "prelu" else nn.ReLU()
            return nn.Sequential(nn.Conv2d(width, num_feat, 3, padding=1), slope)

        self.scale, self.num_feat = scale, num_feat
        self.head = layer(3)
        self.around = nn.Conv2d(6 + num_feat + num_out, num_feat, 3, padding=1, bias=False)
        self.body = nn.Sequential(*(layer(num_feat) for _ in range(num_block)))
        self.tail = nn.Conv2d(num_feat, num_out, 3, padding=1)
        self.memory = layer(num_feat)
        self.base = Base(scale, base)
        self.motion = None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.around.weight)
        start_near_base(self.tail, base)
        if motion:
            self.motion = MotionCompensation(3, num_flow_feat, max_flow)
        taps = {"f_lr": "body" if num_block else "head", "memory": "memory"}
        self.traits = Traits("recurrent", scale, taps=taps)

    def adopted(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Widen an image network's weights: its features stay what they are, and do not see the new ones."""
        own = self.state_dict()
        if "around.weight" in weights:
            return weights
        return {key: _widened(value, own[key]) if key in own else value for key, value in weights.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Restore all frames of clips (B, T, 3, h, w)."""
        batch, count, _, height, width = x.shape
        memory = x.new_zeros(batch, self.num_feat, height, width)
        output = x.new_zeros(batch, 3 * self.scale**2, height, width)
        nothing = x.new_zeros(batch * count, 3, self.scale * height, self.scale * width)
        bases = F.pixel_unshuffle(self.base(nothing, x.flatten(0, 1)), self.scale).unflatten(0, (batch, count))
        before, after = torch.cat([x[:, :1], x[:, :-1]], 1), torch.cat([x[:, 1:], x[:, -1:]], 1)
        windows, flows = torch.stack([before, x, after], 2), None  # no index by a list, which waits for a GPU
        if self.motion is None:
            near = windows[:, :, ::2].flatten(2, 3)
        else:
            warped, both, _ = self.motion(windows.flatten(0, 1))
            near, flows = (part.unflatten(0, (batch, count)) for part in (warped, both[:, :2]))
        outputs = []
        for t in range(count):
            carried = torch.cat([memory, output], 1)
            if flows is not None and t:
                carried = backward_warp(carried, flows[:, t], border="border")
            memory, added = self.step(x[:, t], torch.cat([near[:, t], carried], 1))
            output = bases[:, t] + added
            outputs.append(output)
        return F.pixel_shuffle(torch.stack(outputs, 1), self.scale)

    def step(self, frame: Tensor, around: Tensor) -> tuple[Tensor, Tensor]:
        """Restore one frame (B, 3, h, w).

        Args:
            frame: the frame.
            around: the frame before, the one after, the memory and the output of the frame before, as channels.

        Returns:
            The memory (B, num_feat, h, w), and what is added to the base, at LR size (B, 3 scale^2, h, w).
        """
        conv, slope = cast(nn.Sequential, self.head)
        features = self.body(slope(conv(frame) + self.around(around)))
        return self.memory(features), self.tail(features)


def _widened(old: Tensor, own: Tensor) -> Tensor:
    """Put weights into the first channels of larger ones; return them as they are where those are no larger."""
    if old.dim() != own.dim() or any(a > b for a, b in zip(old.shape, own.shape, strict=True)):
        return old
    wide = own.clone()
    wide[: len(old)] = 0
    wide[tuple(slice(side) for side in old.shape)] = old
    return wide
