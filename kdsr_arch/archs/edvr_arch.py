"""A slimmer EDVR for machines without a GPU. EDVR itself is BasicSR's (``type: EDVR``), used as it is.

Source: Wang et al., "EDVR: Video Restoration with Enhanced Deformable Convolutional Networks", CVPRW 2019.
"""

from __future__ import annotations

from basicsr.archs.edvr_arch import EDVR
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class EDVRSlim(EDVR):
    """EDVR whose layers at HR size have a width of their own: (B, n, 3, h, w) -> (B, 3, 4h, 4w), h, w multiples of 4.

    BasicSR's EDVR keeps 64 channels at HR size whatever ``num_feat`` is, and these layers cost most of a small one.
    With ``num_hr_feat: 64`` and ``base: bilinear`` it is BasicSR's network, and weights are interchangeable.

    Args:
        num_hr_feat: channels of F^SR (``conv_hr``) and of the layer before it.
        base: 'bilinear' as in BasicSR, or 'bicubic' (MATLAB's) as in the papers.
        num_feat, num_frame, deformable_groups, num_extract_block, num_reconstruct_block, with_tsa: as in EDVR.
    """

    def __init__(
        self,
        num_feat: int = 32,
        num_frame: int = 5,
        num_hr_feat: int = 32,
        deformable_groups: int = 4,
        num_extract_block: int = 2,
        num_reconstruct_block: int = 5,
        with_tsa: bool = True,
        base: str = "bicubic",
    ) -> None:
        blocks = {"num_extract_block": num_extract_block, "num_reconstruct_block": num_reconstruct_block}
        super().__init__(3, 3, num_feat, num_frame, deformable_groups, with_tsa=with_tsa, **blocks)
        self.base = one_of("EDVRSlim", "base", base, ("bilinear", "bicubic"))
        self.upconv2 = nn.Conv2d(num_feat, num_hr_feat * 4, 3, padding=1)
        self.conv_hr = nn.Conv2d(num_hr_feat, num_hr_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_hr_feat, 3, 3, padding=1)
        self.traits = Traits("window", 4, num_frame, multiple=4, taps={"f_sr": "conv_hr", "f_lr": "reconstruction"})

    def forward(self, x: Tensor) -> Tensor:
        """Map RGB (B, num_frame, 3, h, w) in [0, 1], h and w multiples of 4, to the center frame (B, 3, 4h, 4w)."""
        sr = super().forward(x)
        if self.base == "bilinear":
            return sr
        center = x[:, self.center_frame_idx]
        bilinear = F.interpolate(center, scale_factor=4, mode="bilinear", align_corners=False)
        return sr + (upsample_bicubic(center, 4) - bilinear)
