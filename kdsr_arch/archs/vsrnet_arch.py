"""VSRNet: SRCNN over several bicubic-upsampled, motion-compensated frames.

Source: Kappeler et al., "Video Super-Resolution With Convolutional Neural Networks", IEEE TCI 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdsr_arch.archs.arch_util import check_choice, check_window, start_near_base
from kdsr_arch.archs.optical_flow import METHODS, FlowCompensation
from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class VSRNet(nn.Module):
    """Video super-resolution of enlarged frames: (B, n, C, H, W) -> (B, C, H, W).

    Frames are Y or RGB in [0, 1], already enlarged to HR size by MATLAB's bicubic (the runner does it). Neighbours are
    warped onto the centre frame by an optical flow that is not learned. F^SR is the output of ``feature``
    (``num_mid_feat`` channels, after ReLU); ``f_lr`` is the joint feature of all frames, at HR size as well.

    Parameters with 5 frames, Y: 272,577; without weight sharing 283,073.

    Args:
        scale: enlargement factor; the weights do not depend on it.
        num_frame: frames of a window, 3, 5 or 7.
        num_feat: channels of the first convolution, per frame ('late') or in all ('early').
        num_mid_feat: channels of the second convolution.
        color: 'y' (the paper) or 'rgb'.
        fusion: 'late': one first convolution per frame, joined before the second (the paper's best, its
            architecture b); 'early': all frames into the first (its architecture a).
        shared: symmetric sharing: frames at the same distance from the centre use the same first convolution.
        flow: 'dis', 'spynet' or 'none', see FlowCompensation.
        spynet_path: SpyNet's weights for ``flow: spynet``.
        base: 'none', as published: the network makes the whole picture; 'bicubic': its output is added to the enlarged
            centre frame, from where short trainings start.
    """

    def __init__(
        self,
        scale: int = 4,
        num_frame: int = 5,
        num_feat: int = 64,
        num_mid_feat: int = 32,
        color: str = "y",
        fusion: str = "late",
        shared: bool = True,
        flow: str = "dis",
        spynet_path: str | None = None,
        base: str = "none",
    ) -> None:
        super().__init__()
        self.base = check_choice("VSRNet", "base", base, ("bicubic", "none"))
        check_window("VSRNet", num_frame)
        check_choice("VSRNet", "fusion", fusion, ("early", "late"))
        check_choice("VSRNet", "flow", flow, METHODS)
        num_channel = 3 if check_choice("VSRNet", "color", color, ("rgb", "y")) == "rgb" else 1
        self.compensate = FlowCompensation(flow, spynet_path)
        self.branch_of = _branches(num_frame, fusion, shared)
        num_in = num_channel * num_frame if fusion == "early" else num_channel
        self.conv1 = nn.ModuleList(nn.Conv2d(num_in, num_feat, 9, padding=4) for _ in range(max(self.branch_of) + 1))
        self.joint = nn.ReLU()
        self.conv2 = nn.Conv2d(num_feat * len(self.branch_of), num_mid_feat, 5, padding=2)
        self.feature = nn.ReLU()
        self.conv3 = nn.Conv2d(num_mid_feat, num_channel, 5, padding=2)
        start_near_base(self.conv3, base)  # else the first, large gradients can put every unit of F^SR out for good
        # DIS fails on frames of a few pixels
        self.traits = Traits(
            "window",
            scale,
            num_frame,
            color,
            upsampled_input=True,
            min_size=_DIS_SIDE if flow == "dis" else 1,
            taps={"f_sr": "feature", "f_lr": "joint"},
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restores the centre frame (B, C, H, W)."""
        center = x[:, x.shape[1] // 2]
        x = self.compensate(x)
        frames = (x.flatten(1, 2),) if len(self.branch_of) == 1 else x.unbind(1)
        first = [self.conv1[branch](frame) for branch, frame in zip(self.branch_of, frames, strict=True)]
        sr = self.conv3(self.feature(self.conv2(self.joint(torch.cat(first, 1)))))
        return center + sr if self.base == "bicubic" else sr


_DIS_SIDE = 12


def _branches(num_frame: int, fusion: str, shared: bool) -> list[int]:
    """Which first convolution each frame goes through."""
    if fusion == "early":
        return [0]
    return [min(i, num_frame - 1 - i) if shared else i for i in range(num_frame)]
