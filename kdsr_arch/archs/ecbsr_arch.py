"""The plain student for real time: 3x3 convolutions, one activation after each, a pixel-shuffle; ECBSR is one."""

from __future__ import annotations

from torch import Tensor, nn

from kdsr_arch.archs.arch_util import Base, start_near_base
from kdsr_arch.archs.reparam import conv3x3
from kdsr_arch.errors import one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY


def _start_plain(net: nn.Module, slope: float) -> None:
    """Draw all convolutions so that the signal keeps its size through activations of this slope below zero."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=slope)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]


@ARCH_REGISTRY.register()
class PlainSR(nn.Module):
    """Plain 3x3 convolutions in LR, folded from what they are trained as: 16,768 parameters at x4, 4 x 16, RGB.

    ``{type: PlainSR, block: ecb, residual: repeat}`` is ECBSR-M4C16 (Zhang et al., ACM MM 2021), ``num_feat: 32`` its
    M4C32 (51,920 parameters); BasicSR's own ``ECBSR`` is the same network, slower to train. Parameters are counted as
    folded. Taps: 'head', 'block1' ..., 'f_lr' (the last feature map). There is no feature of HR size.

    Args:
        scale: enlargement.
        num_in_ch: channels in and out, 3 (RGB) or 1 (Y).
        num_feat: width.
        num_block: convolutions between the first and the last.
        block: 'plain', 'ecb' or 'conv3xc', what each convolution is trained as (:mod:`kdsr_arch.archs.reparam`).
        act: 'prelu' (one slope a channel) or 'relu'.
        residual: what the output is added to: 'none', or the input enlarged: 'repeat' (each pixel repeated, published),
            'bilinear' or 'bicubic' (MATLAB's). With one, the last convolution starts a tenth as large.

    Plain convolutions start as He et al. (ICCV 2015) draw them, for PyTorch's own start shrinks the signal by half in
    each layer: 1,500 iterations later the student was 0.11 dB behind, and without a residual it had hardly begun.
    """

    def __init__(
        self, scale: int = 4, num_in_ch: int = 3, num_feat: int = 16, num_block: int = 4, block: str = "plain",
        act: str = "prelu", residual: str = "repeat",
    ) -> None:  # fmt: skip
        super().__init__()
        one_of("PlainSR", "act", act, ("prelu", "relu"))

        def layer(width: int) -> nn.Sequential:
            slope = nn.PReLU(num_feat) if act == "prelu" else nn.ReLU()
            return nn.Sequential(conv3x3(block, width, num_feat), slope)

        self.head = layer(num_in_ch)
        self.body = nn.Sequential(*(layer(num_feat) for _ in range(num_block)))
        self.tail = conv3x3(block, num_feat, num_in_ch * scale**2)
        self.upsampler = nn.PixelShuffle(scale)
        self.base = Base(scale, residual, "residual")
        if block == "plain":
            _start_plain(self, 0.25 if act == "prelu" else 0.0)
        start_near_base(self.tail, residual)
        taps = {"head": "head", "f_lr": "body" if num_block else "head"}
        taps |= {f"block{i + 1}": f"body.{i}" for i in range(num_block)}
        self.traits = Traits("image", scale, color="y" if num_in_ch == 1 else "rgb", taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, C, h, w) in [0, 1] to an HR image (N, C, scale h, scale w)."""
        return self.base(self.upsampler(self.tail(self.body(self.head(x)))), x)
