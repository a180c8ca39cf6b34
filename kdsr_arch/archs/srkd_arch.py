"""TNSR and SNSR: the teacher and the student of SRKD."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from kdsr_arch.archs.arch_util import Skip, SubPixelDeconv
from kdsr_arch.errors import one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY


def _residual(first: nn.Conv2d, second: nn.Conv2d) -> Skip:
    return Skip(OrderedDict(layers=nn.Sequential(first, nn.ReLU(), second, nn.ReLU())))


class _SRKDNet(nn.Module):
    """Convolution and ReLU, residual blocks, transposed convolutions; taps 'block1' ... in the order of the pass.

    The transposed convolutions: one k4 s2 (x2), one k3 s3 (x3) or two k4 s2 (x4).
    """

    def __init__(
        self, scale: int, num_in_ch: int, num_feat: int, blocks: list[nn.Module], taps: dict[str, str]
    ) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(num_in_ch, num_feat, 3, 1, 1), nn.ReLU())
        self.blocks = nn.Sequential(*blocks)
        widths = [num_feat] * (one_of("TNSR and SNSR", "scale", scale, (2, 3, 4)) // 2) + [num_in_ch]
        shape = (3, 3) if scale == 3 else (4, 2, 1)
        self.tail = nn.Sequential(*(SubPixelDeconv(a, b, *shape) for a, b in zip(widths, widths[1:], strict=False)))
        named = {f"block{i + 1}": f"blocks.{i}" for i in range(len(blocks))}
        color = "y" if num_in_ch == 1 else "rgb"
        self.traits = Traits("image", scale, color=color, taps={"f_lr": f"blocks.{len(blocks) - 1}", **named, **taps})

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, C, h, w) in [0, 1] to an HR image (N, C, scale h, scale w)."""
        return self.tail(self.blocks(self.head(x)))


@ARCH_REGISTRY.register()
class TNSR(_SRKDNet):
    """SRKD's teacher (Gao et al., ACCV 2018): residual blocks of two convolutions, each followed by a ReLU.

    740,225 / 739,777 / 805,825 parameters at x2/x3/x4. Taps 'srkd_1' to 'srkd_3' are blocks 4, 7 and 10.

    Args:
        scale: 2, 3 or 4.
        num_in_ch: 1 (Y, published) or 3.
        num_feat: width.
        num_block: number of blocks; the published taps need 10.
    """

    def __init__(self, scale: int = 4, num_in_ch: int = 1, num_feat: int = 64, num_block: int = 10) -> None:
        def block() -> nn.Module:
            return _residual(*(nn.Conv2d(num_feat, num_feat, 3, 1, 1) for _ in range(2)))

        tapped = [-(-num_block * i // 3) for i in (1, 2, 3)]  # the ends of thirds: 4, 7 and 10 of 10
        taps = {f"srkd_{i + 1}": f"blocks.{n - 1}" for i, n in enumerate(tapped)}
        super().__init__(scale, num_in_ch, num_feat, [block() for _ in range(num_block)], taps)


@ARCH_REGISTRY.register()
class SNSR(_SRKDNet):
    """SRKD's student (Gao et al., ACCV 2018): residual blocks of a depthwise and a 1x1 convolution with ReLUs.

    16,065 / 15,617 / 81,665 parameters at x2/x3/x4. Taps 'srkd_1' to 'srkd_3' are blocks 1, 2 and 3.

    Args:
        scale: 2, 3 or 4.
        num_in_ch: 1 (Y, published) or 3.
        num_feat: width.
        num_block: number of blocks.
    """

    def __init__(self, scale: int = 4, num_in_ch: int = 1, num_feat: int = 64, num_block: int = 3) -> None:
        def block() -> nn.Module:
            depthwise = nn.Conv2d(num_feat, num_feat, 3, 1, 1, groups=num_feat)
            return _residual(depthwise, nn.Conv2d(num_feat, num_feat, 1))

        taps = {f"srkd_{i + 1}": f"blocks.{i}" for i in range(num_block)}
        super().__init__(scale, num_in_ch, num_feat, [block() for _ in range(num_block)], taps)
