"""The temporal adaptive network of Liu et al., as PFNL's authors rebuilt it.

Source: Liu et al., "Robust Video Super-Resolution with Learned Temporal Dynamics", ICCV 2017, whose authors published
no code. The rebuild differs from the paper: frames are aligned by a flow network and a splat, not by a localization
network, and the branches are others.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.archs.arch_util import CenterFlow, start_as_xavier
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.legacy_resize import resize_legacy
from kdsr_arch.ops.warp import forward_splat
from kdsr_arch.registry import ARCH_REGISTRY

_SCALE, _FRAMES = 4, 5


class PooledFlow(CenterFlow):
    """Flow of at most one LR pixel, estimated at a quarter of the size.

    Args:
        num_feat: width.
    """

    def __init__(self, num_feat: int = 32) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(2, num_feat, 9, padding=4), nn.Conv2d(num_feat, num_feat, 9, padding=4)
        self.conv2 = nn.Conv2d(num_feat, 2, 3, padding=1)

    def flow(self, frame: Tensor, center: Tensor) -> Tensor:
        """Return the flow (N, 2, h, w) that takes pixels of ``frame`` to where ``center`` shows them, (N, 1, h, w)."""
        small = torch.cat((center, frame), 1)
        for conv in (self.conv0, self.conv1):
            small = F.max_pool2d(conv(small).relu(), 2, ceil_mode=True)
        height, width = frame.shape[-2:]
        return self.conv2(resize_legacy(small, height, width, "bilinear")).tanh()


@ARCH_REGISTRY.register()
class LTDVSRRebuild(nn.Module):
    """The rebuild of the temporal adaptive network: luma (B, 5, 1, h, w) in [0, 1] -> (B, 1, 4h, 4w).

    Three branches restore the center frame from one, three and five frames, aligned by a splat at LR size; their
    estimates are mixed pixel by pixel. The output is added to nothing. There is no wide feature at HR size; ``f_lr`` is
    that of the branch of five frames.

    The rebuild's training: ``{type: CharbonnierLoss, eps: 1e-6}`` and, weighted 0.01, ``{type: MotionCompensationLoss,
    student: motion, form: drvsr}``, at first without the flow (``stages`` with ``freeze: [motion]``).

    Args:
        num_feat: channels of the branches.
        num_flow_feat: channels of the flow network.
    """

    def __init__(self, num_feat: int = 64, num_flow_feat: int = 32) -> None:
        super().__init__()
        self.motion = PooledFlow(num_flow_feat)
        self.branches = nn.ModuleList(_layers((count, num_feat, num_feat, num_feat, _SCALE**2)) for count in (1, 3, 5))
        self.upsampler = nn.PixelShuffle(_SCALE)
        self.modulation = _layers((_FRAMES, 32, 16, 3), kernel=5)
        start_as_xavier(self)
        self.traits = Traits("window", _SCALE, _FRAMES, "y", taps={"f_lr": "branches.2.5"})

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (B, 5, 1, h, w) to the center frame (B, 1, 4h, 4w)."""
        flow = self.motion(x)[1].unflatten(1, (_FRAMES, 2)).flatten(0, 1)
        aligned = forward_splat(x.flatten(0, 1), flow).unflatten(0, (-1, _FRAMES)).squeeze(2)
        parts = (aligned[:, 2 - reach : 3 + reach] for reach in range(3))
        estimates = [self.upsampler(branch(part)) for branch, part in zip(self.branches, parts, strict=True)]
        height, width = (side * _SCALE for side in x.shape[-2:])
        weights = self.modulation(resize_legacy(x.squeeze(2), height, width, "bilinear")).softmax(1)
        return (torch.cat(estimates, 1) * weights).sum(1, keepdim=True)


def _layers(widths: tuple[int, ...], kernel: int = 3) -> nn.Sequential:
    """Make convolutions with ReLU between, the first of 5x5."""
    layers: list[nn.Module] = []
    for i, (num_in, num_out) in enumerate(pairwise(widths)):
        size = kernel if i else 5
        layers += [nn.Conv2d(num_in, num_out, size, padding=size // 2), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
