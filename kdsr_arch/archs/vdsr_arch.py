"""VDSR: twenty convolutions on the enlarged luma."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class VDSR(nn.Module):
    """VDSR (Kim et al., CVPR 2016): enlarged input, a learned residual. 664,704 parameters (665,921 with biases).

    Tap 'f_sr' is the last feature before the output; 'layer1' ... 'layer18' are those between.

    Args:
        scale: enlargement; the weights serve every scale.
        num_in_ch: 1 (Y, published) or 3.
        num_feat: width.
        num_layer: convolutions in all.
        bias: whether they have biases.
    """

    def __init__(
        self, scale: int = 4, num_in_ch: int = 1, num_feat: int = 64, num_layer: int = 20, bias: bool = False
    ) -> None:
        super().__init__()
        self.input = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1, bias=bias)
        self.relu = nn.ReLU()
        convs = [nn.Conv2d(num_feat, num_feat, 3, 1, 1, bias=bias) for _ in range(num_layer - 2)]
        layers = (nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU())) for conv in convs)  # the published names
        self.residual_layer = nn.Sequential(*layers)
        self.output = nn.Conv2d(num_feat, num_in_ch, 3, 1, 1, bias=bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        taps = {f"layer{i + 1}": f"residual_layer.{i}" for i in range(num_layer - 2)}
        taps["f_sr"] = f"residual_layer.{num_layer - 3}"
        color = "y" if num_in_ch == 1 else "rgb"
        self.traits = Traits("image", scale, color=color, upsampled_input=True, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """Map an enlarged image (N, C, H, W) in [0, 1] to the restored image (N, C, H, W)."""
        return x + self.output(self.residual_layer(self.relu(self.input(x))))
