"""CARN and CARN-M: cascading residual networks for one scale or several."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdsr_arch.archs.arch_util import mean_shifts
from kdsr_arch.errors import one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY

MULTI_SCALES = (2, 3, 4)


class PlainResidual(nn.Module):
    """``relu(x + conv(relu(conv(x))))``; with groups, grouped convolutions and a 1x1 one to mix them."""

    def __init__(self, width: int, group: int = 1) -> None:
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, 1, 1, groups=group) for _ in range(2)]
        layers = [convs[0], nn.ReLU(), convs[1]]
        if group > 1:
            layers += [nn.ReLU(), nn.Conv2d(width, width, 1)]
        self.body = nn.Sequential(*layers)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        return self.relu(x + self.body(x))


def _named_body(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(body=nn.Sequential(*layers)))  # the published parameter names


class Cascade(nn.Module):
    """Three parts, each fed the compressed concatenation of the input and of everything before it."""

    def __init__(self, parts: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        for i, part in enumerate(parts):
            setattr(self, f"b{i + 1}", part)
        for i in range(3):
            setattr(self, f"c{i + 1}", _named_body(nn.Conv2d(width * (i + 2), width, 1), nn.ReLU()))

    def cascade(self, x: Tensor, parts: Sequence[str] = ("b1", "b2", "b3")) -> Tensor:
        """Run the parts of these names, one after another, on ``x`` (B, width, h, w); the result has its shape."""
        gathered = out = x
        for part, compress in zip(parts, ("c1", "c2", "c3"), strict=True):
            gathered = torch.cat([gathered, self.get_submodule(part)(out)], 1)
            out = self.get_submodule(compress)(gathered)
        return out


class CascadingBlock(Cascade):
    """A cascade of three residual units; in CARN-M (group > 1) the three are one unit with shared weights."""

    def __init__(self, width: int, group: int) -> None:
        count = 3 if group == 1 else 1
        super().__init__([PlainResidual(width, group) for _ in range(count)], width)
        self.order = ("b1", "b2", "b3") if group == 1 else ("b1",) * 3

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        return self.cascade(x, self.order)


class Upsampler(nn.Module):
    """One upsampler, or one for each of x2, x3 and x4 of which ``scale`` names the one in use.

    Each is a convolution, a ReLU and a pixel-shuffle, twice for x4.
    """

    def __init__(self, width: int, scale: int, group: int, multi_scale: bool) -> None:
        super().__init__()
        self.used = f"up{scale}" if multi_scale else "up"
        for s in MULTI_SCALES if multi_scale else (scale,):
            layers: list[nn.Module] = []
            for f in (2, 2) if s == 4 else (s,):
                layers += [nn.Conv2d(width, width * f * f, 3, 1, 1, groups=group), nn.ReLU(), nn.PixelShuffle(f)]
            # The scales not in use get no gradient, which distributed training would wait for.
            setattr(self, f"up{s}" if multi_scale else "up", _named_body(*layers).requires_grad_(s == scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to (B, width, h * scale, w * scale), by the scale in use."""
        return getattr(self, self.used)(x)


@ARCH_REGISTRY.register()
class CARN(Cascade):
    """CARN (Ahn et al., ECCV 2018) on RGB in [0, 1].

    964,187 / 1,148,827 / 1,111,899 parameters at x2/x3/x4, 1,591,963 with all three upsamplers, 24 of them the frozen
    shifts of the mean color. Taps: 'block1' to 'block3', 'f_lr' (before the upsampler), 'f_sr' (after it).

    Args:
        scale: 2, 3 or 4.
        multi_scale: hold the upsamplers of all three scales (the published weights do) and use that of ``scale``.
        num_feat: width; published 64.
        group: groups of the convolutions; 1 is CARN, 4 is CARN-M.
    """

    def __init__(self, scale: int = 4, multi_scale: bool = False, num_feat: int = 64, group: int = 1) -> None:
        one_of(type(self).__name__, "scale", scale, MULTI_SCALES)
        super().__init__([CascadingBlock(num_feat, group) for _ in range(3)], num_feat)
        subtract, add = mean_shifts()
        self.sub_mean = nn.Sequential(OrderedDict(shifter=subtract))  # the published parameter names
        self.add_mean = nn.Sequential(OrderedDict(shifter=add))
        self.entry = nn.Conv2d(3, num_feat, 3, 1, 1)
        self.upsample = Upsampler(num_feat, scale, group, multi_scale)
        self.exit = nn.Conv2d(num_feat, 3, 3, 1, 1)
        taps = {"f_lr": "c3", "f_sr": "upsample", "head": "entry", "block1": "b1", "block2": "b2", "block3": "b3"}
        self.traits = Traits("image", scale, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """Map an LR image (N, 3, h, w) in [0, 1] to an HR image (N, 3, scale h, scale w)."""
        y = self.cascade(self.entry(self.sub_mean(x)))
        return self.add_mean(self.exit(self.upsample(y)))


@ARCH_REGISTRY.register()
class CARN_M(CARN):
    """CARN-M: CARN with grouped convolutions and weights shared inside a block.

    257,051 / 303,451 / 294,171 parameters at x2/x3/x4, 414,811 with all three upsamplers. Keywords as of ``CARN``.
    """

    def __init__(self, scale: int = 4, multi_scale: bool = False, num_feat: int = 64, group: int = 4) -> None:
        super().__init__(scale, multi_scale, num_feat, group)
