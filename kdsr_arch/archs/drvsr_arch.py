"""DRVSR: frames splatted onto the HR grid at sub-pixel positions, then joined by a ConvLSTM.

Source: Tao et al., "Detail-revealing Deep Video Super-resolution", ICCV 2017. The numbers are those of the rebuild by
PFNL's authors (x4) around the SPMC authors' published modules.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdsr_arch.archs.arch_util import (
    Base,
    CenterFlow,
    SameConv2d,
    SubPixelDeconv,
    flow_net,
    start_as_xavier,
    start_near_base,
)
from kdsr_arch.errors import UserError
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.warp import forward_splat
from kdsr_arch.registry import ARCH_REGISTRY

_SCALE = 4


class EasyFlow(CenterFlow):
    """Flow estimated coarse to fine on luma whose sides are multiples of 4; each component is below 2 LR pixels.

    Args:
        num_feat: width of both networks.
    """

    def __init__(self, num_feat: int = 24) -> None:
        super().__init__()
        self.coarse = flow_net(2, num_feat, (2, 1, 2, 1, 1), same=True)
        self.fine = flow_net(5, num_feat, (2, 1, 1, 1, 1), same=True)

    def flow(self, frame: Tensor, center: Tensor) -> Tensor:
        """Return the flow (N, 2, h, w) that takes pixels of ``frame`` to where ``center`` shows them, (N, 1, h, w)."""
        pair = torch.cat((frame, center), 1)
        coarse = self.coarse(pair)
        return coarse + self.fine(torch.cat((pair, coarse, self.warped(center, coarse)), 1))


class MemoryCell(nn.Module):
    """A ConvLSTM cell of 3x3 convolutions without peepholes, its forget gate opened by 1.

    Args:
        width: channels of input, cell and output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        nn.init.trunc_normal_(self.conv.weight, std=1e-3, a=-2e-3, b=2e-3)

    def forward(self, x: Tensor, cell: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new cell and hidden state, (B, width, h, w) all."""
        add, new, forget, out = self.conv(torch.cat((x, hidden), 1)).chunk(4, 1)
        cell = cell * (forget + 1).sigmoid() + add.sigmoid() * new.tanh()
        return cell, cell.tanh() * out.sigmoid()


@ARCH_REGISTRY.register()
class DRVSR(nn.Module):
    """Detail-revealing super-resolution: luma (B, n, 1, h, w) in [0, 1] -> (B, 1, 4h, 4w); h and w multiples of 4.

    Frames go through the sub-pixel motion compensation (``forward_splat``) and one by one, in order of time, into the
    memory; after each of them the center frame is estimated anew, the last estimate being the result. ``steps`` returns
    all of them in training, (B, n, 1, 4h, 4w), what StepsLoss takes; in evaluation the last alone. F^SR is the feature
    before the last convolution (num_feat channels at HR size), ``f_lr`` the memory's output, both of the last step.

    The published training begins without the flow (``stages`` with ``freeze: [motion]``), then
    ``{type: StepsLoss, student: steps, teacher: gt}`` and, weighted 0.01, ``{type: MotionCompensationLoss, student:
    motion, form: drvsr}``, with the memory's gradients clipped.

    Args:
        num_frame: frames of a window, odd and at least 3.
        num_feat: channels at HR size; twice and four times as many at half and at LR size.
        num_flow_feat: channels of the flow networks.
        base: what the output is added to: 'legacy' (TensorFlow 1's bicubic; published, for BD data), 'bicubic'
            (MATLAB's, for BI data), 'bilinear', 'repeat' or 'none'.
    """

    def __init__(self, num_frame: int = 3, num_feat: int = 32, num_flow_feat: int = 24, base: str = "legacy") -> None:
        super().__init__()
        if num_frame % 2 == 0 or num_frame < 3:
            raise UserError(f"DRVSR: num_frame must be odd and at least 3, not {num_frame}")
        full, half, quarter = num_feat, 2 * num_feat, 4 * num_feat
        self.enc1 = nn.Sequential(SameConv2d(1, full, 5), nn.ReLU())
        self.enc2 = nn.Sequential(SameConv2d(full, half, 3, 2), nn.ReLU(), SameConv2d(half, half, 3), nn.ReLU())
        self.enc3 = nn.Sequential(SameConv2d(half, quarter, 3, 2), nn.ReLU())
        self.memory = nn.Identity()
        self.dec3 = nn.Sequential(SameConv2d(quarter, quarter, 3), nn.ReLU())
        self.up2 = nn.Sequential(SubPixelDeconv(quarter, half, 4, 2, 1), nn.ReLU())
        self.dec2 = nn.Sequential(SameConv2d(half, half, 3), nn.ReLU())
        self.up1 = nn.Sequential(SubPixelDeconv(half, full, 4, 2, 1), nn.ReLU())
        self.dec1 = nn.Sequential(SameConv2d(full, full, 3), nn.ReLU())
        self.feature = nn.Identity()
        self.conv_last = SameConv2d(full, 1, 5)
        self.base, self.steps = Base(_SCALE, base), nn.Identity()
        start_as_xavier(self)
        start_near_base(self.conv_last, base)
        self.motion, self.cell = EasyFlow(num_flow_feat), MemoryCell(quarter)  # these two have starts of their own
        taps = {"f_sr": "feature", "f_lr": "memory"}
        self.traits = Traits("window", _SCALE, num_frame, "y", multiple=4, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (B, num_frame, 1, h, w) to the center frame (B, 1, 4h, 4w)."""
        count, center = x.shape[1], x[:, x.shape[1] // 2]
        flow = self.motion(x)[1].unflatten(1, (count, 2)).flatten(0, 1)
        large = self.enc1(forward_splat(x.flatten(0, 1), flow, _SCALE))
        middle = self.enc2(large)
        large, middle, small = (maps.unflatten(0, (-1, count)) for maps in (large, middle, self.enc3(middle)))
        cell = hidden = torch.zeros_like(small[:, 0])
        outputs = []
        for t in range(count):
            cell, hidden = self.cell(small[:, t], cell, hidden)
            outputs.append(hidden)
        outputs[-1] = self.memory(hidden)
        feature = self.feature(self._decoded(outputs[-1], middle[:, -1], large[:, -1]))
        sr = self.base(self.conv_last(feature), center)
        if self.training:  # the earlier estimates, at once
            early = (torch.cat(outputs[:-1]), *(m[:, :-1].transpose(0, 1).flatten(0, 1) for m in (middle, large)))
            before = self.base(self.conv_last(self._decoded(*early)), center.repeat(count - 1, 1, 1, 1))
            self.steps(torch.stack((*before.chunk(count - 1), sr), 1))
        else:
            self.steps(sr.unsqueeze(1))
        return sr

    def _decoded(self, memory: Tensor, middle: Tensor, large: Tensor) -> Tensor:
        """Return the feature at HR size from that at LR size and the encoder's at both sizes above it."""
        return self.dec1(self.up1(self.dec2(self.up2(self.dec3(memory)) + middle)) + large)
