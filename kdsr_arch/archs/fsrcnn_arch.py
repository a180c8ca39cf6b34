"""FSRCNN, in PISR's form (one-parameter PReLU) and the per-channel one."""

from __future__ import annotations

from torch import Tensor, nn

from kdsr_arch.archs.arch_util import SubPixelDeconv
from kdsr_arch.errors import one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class FSRCNN(nn.Module):
    """FSRCNN(d, s, m) (Dong et al., ECCV 2016), without a skip from the input.

    12,644 parameters at (56, 12, 4) with one-parameter PReLUs (PISR's form and parameter names), 12,809 with one slope
    a channel. The 9x9 transposed convolution runs as a convolution and a pixel-shuffle. Tap 'expanding' (also 'f_lr')
    is PISR's.

    Args:
        scale: enlargement.
        num_in_ch: 1 (Y, published) or 3.
        d, s, m: width of the first feature, width of the mapping layers, and their number.
        prelu: 'single' slope or one a 'channel'.
    """

    def __init__(
        self, scale: int = 4, num_in_ch: int = 1, d: int = 56, s: int = 12, m: int = 4, prelu: str = "single"
    ) -> None:
        super().__init__()
        one_of("FSRCNN", "prelu", prelu, ("single", "channel"))

        def layer(a: int, b: int, k: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, k, 1, k // 2), nn.PReLU(b if prelu == "channel" else 1))

        self.feature_extraction = nn.Sequential(layer(num_in_ch, d, 5))
        self.shrinking = nn.Sequential(layer(d, s, 1))
        self.mapping = nn.Sequential(*(layer(s, s, 3) for _ in range(m)))
        self.expanding = nn.Sequential(layer(s, d, 1))
        deconv = SubPixelDeconv(d, num_in_ch, 9, scale, 4, scale - 1)
        self.last_layer = nn.Sequential(nn.Sequential(deconv))
        taps = {name: name for name in ("feature_extraction", "shrinking", "mapping", "expanding")}
        taps["f_lr"] = "expanding"
        self.traits = Traits("image", scale, color="y" if num_in_ch == 1 else "rgb", taps=taps)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.25)
        nn.init.normal_(deconv.weight, std=0.001)  # starts small, as published

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, C, h, w) in [0, 1] to an HR image (N, C, scale h, scale w)."""
        x = self.mapping(self.shrinking(self.feature_extraction(x)))
        return self.last_layer(self.expanding(x))
