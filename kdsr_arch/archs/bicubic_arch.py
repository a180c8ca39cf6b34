"""MATLAB's bicubic enlargement as a network without parameters: the baseline of every table."""

from __future__ import annotations

from torch import Tensor, nn

from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class Bicubic(nn.Module):
    """Enlarges images by ``scale`` as MATLAB's ``imresize`` does on floats; no parameters, no weights to load.

    Args:
        scale: H / h.
    """

    def __init__(self, scale: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.traits = Traits("image", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, H, W), not clamped."""
        return upsample_bicubic(x, self.scale)
