"""Optical flow as a fixed preprocessing step: it is estimated, not learned, and carries no gradient."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from basicsr.archs.spynet_arch import SpyNet
from torch import Tensor, nn

from kdsr_arch.archs.arch_util import check_choice
from kdsr_arch.errors import UserError
from kdsr_arch.io import load_tensors
from kdsr_arch.ops.color import rgb_to_y
from kdsr_arch.ops.warp import backward_warp

METHODS = ("dis", "spynet", "none")


class FlowCompensation(nn.Module):
    """Warps the neighbours of a window onto its centre frame along an estimated flow.

    Neither parameters nor state: SpyNet is a fixed tool here, kept out of the network's file.

    Args:
        method: 'dis' (OpenCV's dense inverse search, Kroeger et al., ECCV 2016; on the CPU), 'spynet' (BasicSR's;
            Ranjan and Black, CVPR 2017) or 'none' (frames as they are).
        spynet_path: SpyNet's weights, needed for 'spynet'.
    """

    def __init__(self, method: str = "dis", spynet_path: str | None = None) -> None:
        super().__init__()
        self.method = check_choice("FlowCompensation", "flow", method, METHODS)
        # in a tuple, so that it is no submodule
        self._spynet: tuple[SpyNet, ...] = (_load_spynet(spynet_path),) if method == "spynet" else ()

    @torch.compiler.disable
    @torch.no_grad()
    def flow(self, target: Tensor, neighbour: Tensor) -> Tensor:
        """Flow (B, 2, H, W), (dx, dy) in pixels, by which ``neighbour`` (B, C, H, W) is warped onto ``target``."""
        if self.method == "dis":
            return _dis_flow(target, neighbour)
        spynet = self._spynet[0].to(target.device)
        if target.shape[1] == 1:
            target, neighbour = target.expand(-1, 3, -1, -1), neighbour.expand(-1, 3, -1, -1)
        return spynet(target.float(), neighbour.float()).to(target.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, C, H, W) -> the same, all frames but the centre warped onto it."""
        if self.method == "none":
            return x
        num_frame = x.shape[1]
        center = num_frame // 2
        order = [i for i in range(num_frame) if i != center]
        neighbours = x[:, order].flatten(0, 1)
        flow = self.flow(x[:, center].repeat_interleave(num_frame - 1, 0), neighbours)
        warped = backward_warp(neighbours, flow, border="border").view(x.shape[0], num_frame - 1, *x.shape[2:])
        return torch.cat([warped[:, :center], x[:, center : center + 1], warped[:, center:]], 1)


def _dis_flow(target: Tensor, neighbour: Tensor) -> Tensor:
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    start = np.zeros((*target.shape[-2:], 2), np.float32)
    flows = [
        estimator.calc(one, other, start.copy()) for one, other in zip(_gray(target), _gray(neighbour), strict=True)
    ]
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(target)


def _gray(frames: Tensor) -> np.ndarray:
    luma = rgb_to_y(frames) if frames.shape[1] == 3 else frames
    return (luma[:, 0].detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()


def _load_spynet(path: str | None) -> SpyNet:
    if path is None or not Path(path).is_file():
        raise UserError(
            f"flow 'spynet' needs spynet_path, a file with SpyNet's weights; got {path}. Use flow 'dis' to do without"
        )
    net = SpyNet()
    held = load_tensors(Path(path), "file of SpyNet's weights")
    try:
        net.load_state_dict(held["params"])
    except (RuntimeError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: holds no weights of SpyNet under 'params'") from None
    return net.eval().requires_grad_(False)
