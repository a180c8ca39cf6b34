"""VSRNet: SRCNN over several bicubic-upsampled, motion-compensated frames.

Source: Kappeler et al., "Video Super-Resolution With Convolutional Neural Networks", IEEE TCI 2016. The optical flow is
a fixed preprocessing step: it is estimated, not learned, and carries no gradient.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from basicsr.archs.spynet_arch import SpyNet
from torch import Tensor, nn

from kdsr_arch.archs.arch_util import start_near_base
from kdsr_arch.errors import UserError, one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.io import load_tensors
from kdsr_arch.ops.color import rgb_to_y
from kdsr_arch.ops.warp import backward_warp
from kdsr_arch.registry import ARCH_REGISTRY


class FlowCompensation(nn.Module):
    """Warps the neighbors of a window onto its center frame along an estimated flow.

    Neither parameters nor state: SpyNet is a fixed tool here, kept out of the network's file.

    Args:
        method: 'dis' (OpenCV's dense inverse search, Kroeger et al., ECCV 2016; on the CPU), 'spynet' (BasicSR's;
            Ranjan and Black, CVPR 2017) or 'none' (frames as they are).
        spynet_path: SpyNet's weights, needed for 'spynet'.
    """

    def __init__(self, method: str = "dis", spynet_path: str | None = None) -> None:
        super().__init__()
        self.method = one_of("VSRNet", "flow", method, ("dis", "spynet", "none"))
        self._spynet: tuple[SpyNet, ...] = ()  # in a tuple, so that it is no submodule
        if method != "spynet":
            return
        if spynet_path is None or not Path(spynet_path).is_file():
            raise UserError(
                f"flow 'spynet' needs spynet_path, a file with SpyNet's weights; got {spynet_path}. Use flow 'dis' to "
                "do without"
            )
        net, content = SpyNet(), load_tensors(Path(spynet_path), "file of SpyNet's weights")
        try:
            net.load_state_dict(content["params"])
        except (RuntimeError, KeyError, TypeError, AttributeError):
            raise UserError(f"{spynet_path}: holds no weights of SpyNet under 'params'") from None
        self._spynet = (net.eval().requires_grad_(False),)

    @torch.compiler.disable
    @torch.no_grad()
    def flow(self, target: Tensor, neighbor: Tensor) -> Tensor:
        """Return the flow (B, 2, H, W), (dx, dy) in pixels, that warps ``neighbor`` (B, C, H, W) onto ``target``."""
        if self.method == "dis":
            estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
            start = np.zeros((*target.shape[-2:], 2), np.float32)
            pairs = zip(_gray(target), _gray(neighbor), strict=True)
            flows = [estimator.calc(first, second, start.copy()) for first, second in pairs]
            return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(target)
        spynet = self._spynet[0].to(target.device)
        if target.shape[1] == 1:
            target, neighbor = target.expand(-1, 3, -1, -1), neighbor.expand(-1, 3, -1, -1)
        return spynet(target.float(), neighbor.float()).to(target.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Warp all frames of (B, n, C, H, W) but the center onto it."""
        if self.method == "none":
            return x
        num_frame = x.shape[1]
        center = num_frame // 2
        neighbors = torch.cat((x[:, :center], x[:, center + 1 :]), 1).flatten(0, 1)
        flow = self.flow(x[:, center].repeat_interleave(num_frame - 1, 0), neighbors)
        warped = backward_warp(neighbors, flow, border="border").view(x.shape[0], num_frame - 1, *x.shape[2:])
        return torch.cat([warped[:, :center], x[:, center : center + 1], warped[:, center:]], 1)


def _gray(frames: Tensor) -> np.ndarray:
    luma = rgb_to_y(frames) if frames.shape[1] == 3 else frames
    return (luma[:, 0].detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()


@ARCH_REGISTRY.register()
class VSRNet(nn.Module):
    """Video super-resolution of enlarged frames: (B, n, C, H, W) -> (B, C, H, W).

    Frames are Y or RGB in [0, 1], already enlarged to HR size by MATLAB's bicubic (the runner does it). Neighbors are
    warped onto the center frame by an optical flow that is not learned. F^SR is the output of ``feature``
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
        shared: symmetric sharing: frames at the same distance from the center use the same first convolution.
        flow: 'dis', 'spynet' or 'none', see FlowCompensation.
        spynet_path: SpyNet's weights for ``flow: spynet``.
        base: 'none', as published: the network makes the whole picture; 'bicubic': its output is added to the enlarged
            center frame, from where short trainings start.
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
        self.base = one_of("VSRNet", "base", base, ("bicubic", "none"))
        one_of("VSRNet", "num_frame", num_frame, (3, 5, 7))
        one_of("VSRNet", "fusion", fusion, ("early", "late"))
        num_channel = 3 if one_of("VSRNet", "color", color, ("rgb", "y")) == "rgb" else 1
        self.compensate = FlowCompensation(flow, spynet_path)
        late = [min(i, num_frame - 1 - i) if shared else i for i in range(num_frame)]
        self.branch_of = [0] if fusion == "early" else late  # the first convolution that each frame goes through
        num_in = num_channel * num_frame if fusion == "early" else num_channel
        self.conv1 = nn.ModuleList(nn.Conv2d(num_in, num_feat, 9, padding=4) for _ in range(max(self.branch_of) + 1))
        self.joint = nn.ReLU()
        self.conv2 = nn.Conv2d(num_feat * len(self.branch_of), num_mid_feat, 5, padding=2)
        self.feature = nn.ReLU()
        self.conv3 = nn.Conv2d(num_mid_feat, num_channel, 5, padding=2)
        start_near_base(self.conv3, base)  # else the first, large gradients can put every unit of F^SR out for good
        smallest = 12 if flow == "dis" else 1  # DIS fails on frames of a few pixels
        taps = {"f_sr": "feature", "f_lr": "joint"}
        self.traits = Traits("window", scale, num_frame, color, upsampled_input=True, min_size=smallest, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """Restore the center frame (B, C, H, W)."""
        center = x[:, x.shape[1] // 2]
        x = self.compensate(x)
        frames = (x.flatten(1, 2),) if len(self.branch_of) == 1 else x.unbind(1)
        first = [self.conv1[branch](frame) for branch, frame in zip(self.branch_of, frames, strict=True)]
        sr = self.conv3(self.feature(self.conv2(self.joint(torch.cat(first, 1)))))
        return center + sr if self.base == "bicubic" else sr
