"""BasicSR's RCAN and EDSR with FAKD's tap points."""

from __future__ import annotations

from typing import Any

from basicsr.archs.edsr_arch import EDSR
from basicsr.archs.rcan_arch import RCAN
from torch import Tensor, nn

from kdsr_arch.infer.traits import Traits
from kdsr_arch.registry import ARCH_REGISTRY


def fakd_groups(count: int) -> tuple[int, int]:
    """Return the two groups that FAKD taps: 2 and 6 from seven groups on (published), the ends of thirds below."""
    return (2, 6) if count >= 7 else (max(count // 3 - 1, 0), 2 * count // 3)


def _traits(scale: int, first: int, second: int) -> Traits:
    taps = {"head": "conv_first", "body_end": "conv_after_body", "body_end_skip": "long_skip", "f_lr": "long_skip",
            "f_sr": "upsample", "fakd_0": "conv_first", "fakd_1": f"body.{first}", "fakd_2": f"body.{second}",
            "fakd_3": "long_skip"}  # fmt: skip
    return Traits("image", scale, taps=taps)


class _Tapped(nn.Module):
    """The forward pass that BasicSR's RCAN and EDSR share, with the sum of the long skip passed through a module."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """Map an LR image (N, 3, h, w) in [0, 1] to an HR image (N, 3, scale h, scale w)."""
        self.mean = self.mean.type_as(x)
        head = self.conv_first((x - self.mean) * self.img_range)
        body = self.long_skip(self.conv_after_body(self.body(head)) + head)
        return self.conv_last(self.upsample(body)) / self.img_range + self.mean


@ARCH_REGISTRY.register()
class RCANTapped(_Tapped, RCAN):
    """BasicSR's RCAN, weights and all, with a module at the sum of the long skip so that it can be tapped.

    The published teacher is 10 groups x 20 blocks, FAKD's student 10 x 6. Taps: 'head'; 'body_end' (the last
    convolution of the body, without the long skip); 'body_end_skip' (with it; also 'f_lr'); 'f_sr'; 'fakd_0' ...
    'fakd_3' = head, group 2, group 6, body's end *with* the long skip, which FAKD's code adds in place after recording.
    Keywords as of BasicSR's RCAN; colors default to 3 channels.
    """

    def __init__(
        self, num_in_ch: int = 3, num_out_ch: int = 3, num_group: int = 10, upscale: int = 4, **more: Any
    ) -> None:
        super().__init__(num_in_ch, num_out_ch, num_group=num_group, upscale=upscale, **more)
        self.long_skip = nn.Identity()
        self.traits = _traits(upscale, *fakd_groups(num_group))


@ARCH_REGISTRY.register()
class EDSRTapped(_Tapped, EDSR):
    """BasicSR's EDSR, weights and all, with a module at the sum of the long skip so that it can be tapped.

    The published teacher is 256 channels, 32 blocks, ``res_scale: 0.1`` (43.09M parameters at x4), FAKD's student 64
    and 16 (1.518M). Taps: 'head', 'body_end', 'body_end_skip' (also 'f_lr'), 'f_sr', and 'fakd_0' ... 'fakd_3' = head,
    the ends of the first and the second third of the body, the body's end with the long skip.
    Keywords as of BasicSR's EDSR; colors default to 3 channels.
    """

    def __init__(
        self, num_in_ch: int = 3, num_out_ch: int = 3, num_block: int = 16, upscale: int = 4, **more: Any
    ) -> None:
        super().__init__(num_in_ch, num_out_ch, num_block=num_block, upscale=upscale, **more)
        self.long_skip = nn.Identity()
        self.traits = _traits(upscale, max(num_block // 3, 1) - 1, max(2 * num_block // 3, 1) - 1)
