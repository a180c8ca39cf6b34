"""BasicSR's DUF and BasicVSR++ made fit to teach, under their own names and with their own weights.

DUF keeps no module whose output is a plain feature map, and BasicVSR++ leaves its alignment out where there is no GPU.
The classes here are subclasses that take their places in BasicSR's registry, so that ``type: DUF`` gives them.
"""

from __future__ import annotations

import warnings

from basicsr.archs import basicvsrpp_arch, duf_arch
from basicsr.archs.basicvsrpp_arch import SecondOrderDeformableAlignment
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.exporting import exporting
from kdsr_arch.registry import ARCH_REGISTRY


class DUF(duf_arch.DUF):
    """DUF (Jo et al., CVPR 2018): (B, 7, 3, h, w) -> (B, 3, H, W), equal to BasicSR's up to rounding.

    F^SR is the output of ``upsampler``: its residual image at HR size, 3 channels, the only map of HR size it makes
    besides the filtered frame. ``f_lr`` is the 256-channel feature that filters and residual are made from.
    """

    def __init__(self, scale: int = 4, num_layer: int = 52, adapt_official_weights: bool = False) -> None:
        super().__init__(scale, num_layer, adapt_official_weights)
        self.feature = nn.Identity()
        self.upsampler = nn.PixelShuffle(scale)
        self.traits = Traits("window", scale, 7, taps={"f_sr": "upsampler", "f_lr": "feature"})

    def forward(self, x: Tensor) -> Tensor:
        """Map RGB frames (B, 7, 3, h, w) in [0, 1] to the center frame (B, 3, h * scale, w * scale)."""
        volume = self.dense_block2(self.dense_block1(self.conv3d1(x.transpose(1, 2))))
        volume = F.relu(self.conv3d2(F.relu(self.bn3d2(volume))))
        feature = self.feature(volume.squeeze(2)).unsqueeze(2)
        residual = self.conv3d_r2(F.relu(self.conv3d_r1(feature))).squeeze(2)
        filters = self.conv3d_f2(F.relu(self.conv3d_f1(feature))).squeeze(2)
        filters = filters.unflatten(1, (25, self.scale**2)).softmax(1)
        filtered = self.dynamic_filter(x[:, x.shape[1] // 2], filters)
        return F.pixel_shuffle(filtered, self.scale) + self.upsampler(residual)


class BasicVSRPlusPlus(basicvsrpp_arch.BasicVSRPlusPlus):
    """BasicVSR++ (Chan et al., CVPR 2022) with its deformable alignment on every device.

    Also, whether a clip is its own mirror image is decided for each clip anew; BasicSR's keeps the first yes for ever.
    """

    def __init__(
        self,
        mid_channels: int = 64,
        num_blocks: int = 7,
        max_residue_magnitude: int = 10,
        is_low_res_input: bool = True,
        spynet_path: str | None = None,
        cpu_cache_length: int = 100,
    ) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Deformable alignment module is not added")
            super().__init__(
                mid_channels, num_blocks, max_residue_magnitude, is_low_res_input, spynet_path, cpu_cache_length
            )
        for name in self.backbone:
            if name not in self.deform_align:
                limits = {"deformable_groups": 16, "max_residue_magnitude": max_residue_magnitude}
                alignment = SecondOrderDeformableAlignment(2 * mid_channels, mid_channels, 3, padding=1, **limits)
                self.deform_align[name] = alignment
        self.is_with_alignment = True

    def check_if_mirror_extended(self, lqs: Tensor) -> None:
        """Note if the second half of the clip (B, T, 3, h, w) is the first backwards; never in exports or on CUDA."""
        self.is_mirror_extended = False
        if not (exporting() or lqs.is_cuda):  # it only spares flows: a graph cannot branch on values, a GPU would wait
            super().check_if_mirror_extended(lqs)

    def forward(self, lqs: Tensor) -> Tensor:
        """Map RGB clips (B, T, 3, h, w) in [0, 1] to (B, T, 3, 4h, 4w); (B, T, 3, h, w) unless ``is_low_res_input``."""
        if not lqs.is_cuda:  # its cache for long clips moves tensors to a GPU
            self.cpu_cache_length = lqs.shape[1]
        return super().forward(lqs)


for _class in (DUF, BasicVSRPlusPlus):  # the registry has no public way to replace BasicSR's class of the same name
    ARCH_REGISTRY._obj_map[_class.__name__] = _class
