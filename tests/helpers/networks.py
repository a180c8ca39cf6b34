"""Tiny networks with the shapes and vices of real ones."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import build

# options of networks that train in no time: of images x2, of windows of 3 frames x4
SMALL = {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2}
VESPCN = {"type": "VESPCN", "num_frame": 3, "num_feat": 8, "num_hr_feat": 8, "num_block": 1, "num_flow_feat": 4}
EDVR = {
    "type": "EDVRSlim",
    **{"num_feat": 8, "num_hr_feat": 8, "num_frame": 3, "deformable_groups": 2},
    **{"num_extract_block": 1, "num_reconstruct_block": 1},
}


def make_network(spec: Mapping[str, Any]) -> nn.Module:
    """The registered network of that `type` and these keywords."""
    return build("network", spec, "network")


def image_batch(count: int = 2, side: int = 8) -> dict[str, torch.Tensor]:
    """A batch of random images for an `Image`: LR (count, 3, side, side) and HR twice as large."""
    return {"lq": torch.rand(count, 3, side, side), "gt": torch.rand(count, 3, 2 * side, 2 * side)}


class Window(nn.Module):
    """(B, n, 3, h, w) -> (B, 3, 2h, 2w), with batch norm and an in-place activation right behind its F^SR."""

    def __init__(self, num_feat=4, num_frame=3, color="rgb"):
        super().__init__()
        channels = 3 if color == "rgb" else 1
        self.traits = Traits("window", 2, num_frame=num_frame, color=color, taps={"f_sr": "up", "f_lr": "body"})
        self.fuse = nn.Conv2d(num_frame * channels, num_feat, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(num_feat, num_feat, 3, padding=1), nn.BatchNorm2d(num_feat), nn.ReLU(inplace=True)
        )
        self.up = nn.Sequential(nn.Conv2d(num_feat, 4 * num_feat, 3, padding=1), nn.PixelShuffle(2))
        self.act = nn.LeakyReLU(0.1, inplace=True)
        self.last = nn.Conv2d(num_feat, channels, 3, padding=1)

    def forward(self, x):
        return self.last(self.act(self.up(self.body(self.fuse(x.flatten(1, 2))))))


class Recurrent(nn.Module):
    """(B, T, 3, h, w) -> (B, T, 3, 2h, 2w); ``step`` and ``up`` fire once for each frame."""

    def __init__(self, num_feat=4):
        super().__init__()
        self.traits = Traits("recurrent", 2, taps={"f_sr": "up"})
        self.step = nn.Conv2d(3 + num_feat, num_feat, 3, padding=1)
        self.up = nn.Sequential(nn.Conv2d(num_feat, 4 * num_feat, 3, padding=1), nn.PixelShuffle(2))
        self.last = nn.Conv2d(num_feat, 3, 3, padding=1)

    def forward(self, x):
        state = x.new_zeros(x.shape[0], self.step.out_channels, *x.shape[-2:])
        frames = []
        for frame in x.unbind(1):
            state = torch.relu(self.step(torch.cat([frame, state], 1)))
            frames.append(self.last(self.up(state)))
        return torch.stack(frames, 1)


class Image(nn.Module):
    """(B, 3, h, w) -> (B, 3, 2h, 2w)."""

    def __init__(self, num_feat=4):
        super().__init__()
        self.traits = Traits("image", 2, taps={"f_sr": "up", "f_lr": "head"})
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.up = nn.Sequential(nn.Conv2d(num_feat, 4 * num_feat, 3, padding=1), nn.PixelShuffle(2))
        self.last = nn.Conv2d(num_feat, 3, 3, padding=1)
        self.idle = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.last(F.relu(self.up(self.head(x))))
