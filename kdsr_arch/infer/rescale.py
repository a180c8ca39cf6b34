"""A network that enlarges by another factor than its own: what it makes is resized."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from kdsr_arch.infer.open import Opened
from kdsr_arch.infer.runner import Runner
from kdsr_arch.ops.bicubic import imresize, upsample_bicubic


class Rescaled(nn.Module):
    """A network for inference and the resize of what it makes, by MATLAB's bicubic.

    Args:
        opened: the network; its weights are not changed any more.
        scale: the enlargement of both together.
    """

    def __init__(self, opened: Opened, scale: int) -> None:
        super().__init__()
        traits = opened.traits
        runner = Runner(opened.net, traits)
        runner.name = opened.label
        self.net, self.check_size = runner.inference_net(), runner.check_size
        self.enlarge, self.factor, self.scale = (
            traits.scale if traits.upsampled_input else 1,
            scale / traits.scale,
            scale,
        )
        self.traits = replace(
            traits, scale=scale, upsampled_input=False, multiple=traits.lr_multiple, min_size=traits.lr_minimum, taps={}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map what the network takes, h x w and not yet enlarged, to frames of (scale * h) x (scale * w)."""
        out = self.net(upsample_bicubic(x, self.enlarge) if self.enlarge > 1 else x)
        self.check_size(out, x)  # the cut below would hide another
        with torch.autocast(out.device.type, enabled=False):
            made = imresize(out.float(), self.factor)
        return made[..., : x.shape[-2] * self.scale, : x.shape[-1] * self.scale]


def rescaled(opened: Opened, scale: int) -> Opened:
    """Let a network enlarge by ``scale``."""
    net = Rescaled(opened, scale).eval()
    return replace(opened, net=net, traits=net.traits, network=opened.network | {"outscale": scale})
