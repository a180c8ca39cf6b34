"""VESPCN: spatial-transformer motion compensation and a sub-pixel network, trained together.

Source: Caballero et al., "Real-Time Video Super-Resolution with Spatio-Temporal Networks and Motion Compensation",
CVPR 2017. The default is the widely used residual version of 878,787 parameters at RGB x4, whose 64-channel feature at
HR size space-time distillation works on.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.archs.arch_util import Base, FusedHead, Skip, flow_net, pre_activation_block, start_near_base
from kdsr_arch.errors import one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.exporting import crop_by_gathering, exporting, replicate_to_multiple
from kdsr_arch.ops.warp import backward_warp
from kdsr_arch.registry import ARCH_REGISTRY


class MotionCompensation(nn.Module):
    """Warps the neighbors of a window onto its center frame along a coarse-to-fine flow.

    A coarse flow is estimated at a quarter of the size, the neighbor is warped by it, a fine flow at half the size
    corrects it (the paper's section 2.3). Training starts at zero flow, which is the identity.

    Deviations from the widely used version, whose zero flow is not the identity under today's ``grid_sample`` and whose
    flow falls short by (w-1)/w and (h-1)/h: flow is in LR pixels exactly. And its coarse warp forgets the gain, so that
    it moves by less than a pixel; ``coarse_gain: 1`` brings that back for weights trained that way.

    Args:
        num_channel: channels of a frame.
        num_feat: width of the flow networks; 24 in the paper.
        max_flow: gain on the sum of two tanh outputs: the flow reaches twice that, in LR pixels.
        coarse_gain: gain of the coarse warp; absent: ``max_flow``.
    """

    def __init__(
        self, num_channel: int = 3, num_feat: int = 24, max_flow: float = 32.0, coarse_gain: float | None = None
    ) -> None:
        super().__init__()
        self.max_flow = max_flow
        self.coarse_gain = max_flow if coarse_gain is None else coarse_gain
        self.coarse = flow_net(2 * num_channel, num_feat, (2, 1, 2, 1, 1))
        self.fine = flow_net(3 * num_channel + 2, num_feat, (2, 1, 1, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compensate all neighbors at once.

        Args:
            x: (B, n, C, h, w), any h and w.

        Returns:
            The warped neighbors in order (B, (n-1)*C, h, w), their flows (B, (n-1)*2, h, w) as (dx, dy) in pixels,
            and the center frame (B, C, h, w).
        """
        batch, num_frame, _, height, width = x.shape
        center = num_frame // 2
        neighbors = torch.cat((x[:, :center], x[:, center + 1 :]), 1).flatten(0, 1)
        target = x[:, center]
        flow = self.flow(target.repeat_interleave(num_frame - 1, 0), neighbors)
        warped = backward_warp(neighbors, flow, border="border")
        return warped.reshape(batch, -1, height, width), flow.reshape(batch, -1, height, width), target

    def flow(self, target: Tensor, neighbor: Tensor) -> Tensor:
        """Return the flow (B, 2, h, w) in pixels by which ``neighbor`` (B, C, h, w) is warped onto ``target``."""
        height, width = target.shape[-2:]
        pair, unit = torch.cat([neighbor, target], 1), 4  # the coarse network halves its input twice
        if exporting():
            pair = replicate_to_multiple(pair, unit)
        else:
            pair = F.pad(pair, (0, -width % unit, 0, -height % unit), mode="replicate")
        coarse = self.coarse(pair)
        warped = backward_warp(pair[:, : target.shape[1]], coarse * self.coarse_gain, border="border")
        fine = self.fine(torch.cat([pair, coarse, warped], 1))
        flow = (coarse + fine) * self.max_flow
        return crop_by_gathering(flow, height, width) if exporting() else flow[..., :height, :width]


class SlowFusion(nn.Module):
    """Merges consecutive frames two by two, with shared weights in a layer, until one feature map is left.

    The paper's slow fusion (section 2.2, figure 3) with temporal depth 2 in every layer: n - 1 layers.
    """

    def __init__(self, num_frame: int, num_channel: int, num_feat: int) -> None:
        super().__init__()
        widths = [num_channel] + [num_feat] * (num_frame - 2)
        self.convs = nn.ModuleList(nn.Conv2d(2 * width, num_feat, 3, padding=1) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (B, n, C, h, w) to features (B, num_feat, h, w)."""
        for i, conv in enumerate(self.convs):
            pairs = torch.cat([x[:, :-1], x[:, 1:]], 2)
            x = conv((F.relu(pairs) if i else pairs).flatten(0, 1)).unflatten(0, pairs.shape[:2])
        return x.squeeze(1)


@ARCH_REGISTRY.register()
class VESPCN(nn.Module):
    """Video super-resolution by motion compensation and sub-pixel convolution: (B, n, C, h, w) -> (B, C, H, W).

    Frames are RGB or Y in [0, 1]. F^SR is the output of ``upsampler``: num_hr_feat channels at HR size. The module
    ``motion`` returns (warped, flow, reference), what MotionCompensationLoss takes (``student: motion``).

    Presets (keyword arguments; parameters at RGB x4):
        the default: 878,787 parameters;
        real time: num_feat 32, num_flow_feat 8, base bicubic: 366,643 (most in layers fused at inference);
        tiny: num_feat 16, num_hr_feat 16, num_block 2, num_flow_feat 8, base bicubic: 59,011;
        the paper's networks: block plain, num_feat 24, num_hr_feat 0, num_block 3 (5 layers) to 7 (9 layers), color y.

    Args:
        scale: enlargement factor.
        num_frame: frames of a window, 3, 5 or 7.
        num_feat: channels at LR size.
        num_hr_feat: channels of F^SR; 0: the sub-pixel convolution makes the image itself, as in the paper.
        num_block: residual blocks, or plain convolutions, of the body.
        color: 'rgb' or 'y'.
        motion: compensate motion first.
        fusion: 'early' or 'slow'.
        base: what the output is added to: 'none' (the paper), 'repeat', 'bilinear', 'bicubic' or 'legacy' of the
            center frame (see ``Base``).
        block: 'residual' (with a skip around the body) or 'plain' (convolution and ReLU, the paper's).
        num_flow_feat, max_flow, coarse_gain: see MotionCompensation.
    """

    def __init__(
        self,
        scale: int = 4,
        num_frame: int = 3,
        num_feat: int = 64,
        num_hr_feat: int = 64,
        num_block: int = 3,
        color: str = "rgb",
        motion: bool = True,
        fusion: str = "early",
        base: str = "none",
        block: str = "residual",
        num_flow_feat: int = 24,
        max_flow: float = 32.0,
        coarse_gain: float | None = None,
    ) -> None:
        super().__init__()
        one_of("VESPCN", "num_frame", num_frame, (3, 5, 7))
        one_of("VESPCN", "fusion", fusion, ("early", "slow"))
        one_of("VESPCN", "block", block, ("residual", "plain"))
        num_channel = 3 if one_of("VESPCN", "color", color, ("rgb", "y")) == "rgb" else 1
        self.motion = MotionCompensation(num_channel, num_flow_feat, max_flow, coarse_gain) if motion else None
        if fusion == "slow":
            self.fusion: nn.Module = SlowFusion(num_frame, num_channel, num_feat)
        else:  # all frames at once to one convolution
            conv = nn.Conv2d(num_frame * num_channel, num_feat, 3, padding=1)
            self.fusion = nn.Sequential(OrderedDict(join=nn.Flatten(1, 2), conv=conv))
        if block == "residual":
            self.body: nn.Sequential = Skip(
                *(pre_activation_block(num_feat) for _ in range(num_block)), nn.ReLU(inplace=True)
            )
        else:
            convs = (nn.Conv2d(num_feat, num_feat, 3, padding=1) for _ in range(num_block))
            layers = (layer for conv in convs for layer in (conv, nn.ReLU(inplace=True)))
            self.body = nn.Sequential(nn.ReLU(inplace=True), *layers)
        width = num_hr_feat or num_channel
        self.conv_up = nn.Conv2d(num_feat, width * scale**2, 3, padding=1)
        self.upsampler = nn.PixelShuffle(scale)
        self.conv_last = nn.Conv2d(num_hr_feat, num_channel, 3, padding=1) if num_hr_feat else None
        self.base = Base(scale, base)
        self.fused: FusedHead | None = None  # see for_inference
        start_near_base(self.conv_last or self.conv_up, base)
        taps = {"f_sr": "upsampler", "f_lr": "body"} if num_hr_feat else {"f_lr": "body"}
        self.traits = Traits("window", scale, num_frame, color, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (B, num_frame, C, h, w) in [0, 1] to the center frame (B, C, h * scale, w * scale)."""
        half = x.shape[1] // 2
        center = x[:, half]
        if self.motion is not None:
            neighbors = self.motion(x)[0].unflatten(1, (x.shape[1] - 1, -1))
            x = torch.cat([neighbors[:, :half], center.unsqueeze(1), neighbors[:, half:]], 1)
        feature = self.body(self.fusion(x))
        if self.fused is not None:
            return self.base(self.fused(feature), center)
        sr = self.upsampler(self.conv_up(feature))
        if self.conv_last is not None:
            sr = self.conv_last(sr)
        return self.base(sr, center)

    def for_inference(self) -> VESPCN:
        """Return a copy in evaluation mode, equal to rounding but without F^SR, which costs most of the time."""
        net = copy.deepcopy(self).eval()
        if net.conv_last is not None:
            net.fused = FusedHead(net.conv_up, net.conv_last, self.traits.scale)
        return net
