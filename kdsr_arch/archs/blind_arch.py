"""The networks of blind super-resolution by Xia et al.: a restorer that is told the degradation, and who tells it.

Their method is called KDSR as well; this project shares no more than the name with it.
"""

from __future__ import annotations

import torch
from basicsr.archs.arch_util import Upsample
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.archs.arch_util import Skip, mean_shifts
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.exporting import exporting
from kdsr_arch.registry import ARCH_REGISTRY


def _conv(wide: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(wide, out, 3, 1, 1)


def _act() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.1)


class _Estimator(nn.Module):
    """Images (B, C_in, h, w) -> a representation of what degraded them: ``mlp`` (B, 4 C), compressed to (B, C)."""

    def __init__(self, num_in_ch: int, num_feat: int, num_block: int) -> None:
        super().__init__()
        wide = 4 * num_feat
        blocks = (Skip(nn.Sequential(_conv(num_feat, num_feat), _act(), _conv(num_feat, num_feat)))
                  for _ in range(num_block))  # fmt: skip
        self.convs = nn.Sequential(
            _conv(num_in_ch, num_feat), _act(), *blocks,
            _conv(num_feat, 2 * num_feat), _act(), _conv(2 * num_feat, 2 * num_feat), _act(),
            _conv(2 * num_feat, wide), _act(),
        )  # fmt: skip
        self.mlp = nn.Sequential(nn.Linear(wide, wide), _act(), nn.Linear(wide, wide), _act())
        self.compress = nn.Sequential(nn.Linear(wide, num_feat), _act())

    def forward(self, x: Tensor) -> Tensor:
        return self.compress(self.mlp(self.convs(x).mean((2, 3))))


class _Block(nn.Module):
    """A depthwise convolution whose kernels the representation makes, a convolution, and a skip."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.kernel = nn.Sequential(
            nn.Linear(num_feat, num_feat, bias=False), _act(), nn.Linear(num_feat, 9 * num_feat, bias=False)
        )
        self.act, self.conv = _act(), _conv(num_feat, num_feat)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return self.conv(self.act(_own_convolution(x, self.kernel(code)))) + x


def _own_convolution(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each channel of each image of (B, C, h, w) with a 3x3 kernel of its own, of (B, 9 C)."""
    height, width = x.shape[-2:]
    if not exporting():
        kernels = kernels.view(-1, 1, 3, 3)  # (B C, 1, 3, 3)
        return F.conv2d(x.reshape(1, -1, height, width), kernels, padding=1, groups=kernels.shape[0]).view(x.shape)
    kernels, padded = (
        kernels.unflatten(1, (-1, 9))[..., None, None],
        F.pad(x, (1, 1, 1, 1)),
    )  # a graph has no such groups
    parts = [kernels[:, :, i] * padded[..., i // 3 : i // 3 + height, i % 3 : i % 3 + width] for i in range(9)]
    return torch.stack(parts).sum(0)


class _Restorer(nn.Module):
    """LR images and their representation -> HR images."""

    def __init__(self, scale: int, num_feat: int, num_block: int) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = mean_shifts()
        self.head, self.body_end = _conv(3, num_feat), _conv(num_feat, num_feat)
        self.blocks = nn.ModuleList(_Block(num_feat) for _ in range(num_block))
        self.long_skip = nn.Identity()
        self.upsample, self.last = Upsample(scale, num_feat), _conv(num_feat, 3)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        head = y = self.head(self.sub_mean(x))
        for block in self.blocks:
            y = block(y, code)
        return self.add_mean(self.last(self.upsample(self.long_skip(self.body_end(y) + head))))


def _taps(estimator: str) -> dict[str, str]:
    return {"f_lr": "restorer.long_skip", "f_sr": "restorer.upsample", "degradation": f"{estimator}.mlp"}


@ARCH_REGISTRY.register()
class BlindSR(nn.Module):
    """Student of blind SR (Xia et al., ICLR 2023): estimates from the LR image what degraded it, and restores with it.

    The defaults are the authors' KDSR_S-M of 5,795,099 parameters. Tap 'degradation' is the representation
    (B, 4 num_feat). With the teacher's file and ``strict_load_g: false`` it starts with the teacher's restorer, as
    published.

    Args:
        scale: 2, 3 or 4.
        num_feat: width.
        num_block: blocks of the restorer.
        num_estimator_block: residual blocks of the estimator.
    """

    def __init__(self, scale: int = 4, num_feat: int = 64, num_block: int = 53, num_estimator_block: int = 9) -> None:
        super().__init__()
        self.restorer = _Restorer(scale, num_feat, num_block)
        self.estimator = _Estimator(3, num_feat, num_estimator_block)
        self.traits = Traits("image", scale, taps=_taps("estimator"))

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, 3, h, w) in [0, 1] to an HR image (N, 3, scale h, scale w)."""
        return self.restorer(x, self.estimator(x))


@ARCH_REGISTRY.register()
class BlindSRTeacher(nn.Module):
    """Teacher of blind SR (Xia et al., ICLR 2023): its estimator sees the ground truth beside the LR image.

    Declares ``traits.input = 'both'``. Taps and keywords as of BlindSR.
    """

    def __init__(self, scale: int = 4, num_feat: int = 64, num_block: int = 53, num_estimator_block: int = 9) -> None:
        super().__init__()
        self.restorer = _Restorer(scale, num_feat, num_block)
        self.privileged = _Estimator(3 + 3 * scale**2, num_feat, num_estimator_block)
        self.traits = Traits("image", scale, taps=_taps("privileged"), input="both")

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3 + 3 scale^2, h, w), LR image and unshuffled HR image, to an HR image (N, 3, scale h, scale w)."""
        return self.restorer(x[:, :3], self.privileged(x))
