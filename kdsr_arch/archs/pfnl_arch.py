"""PFNL: a non-local block over all frames at once, then frames fused progressively, without motion compensation.

Source: Yi et al., "Progressive Fusion Video Super-Resolution Network via Exploiting Non-Local Spatio-Temporal
Correlations", ICCV 2019; numbers that the paper does not give are those of the authors' code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.archs.arch_util import Base, start_as_xavier, start_near_base
from kdsr_arch.errors import UserError, one_of
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.exporting import exporting
from kdsr_arch.registry import ARCH_REGISTRY

_PIECE = 64 << 20  # bytes of attention at once where no gradient is wanted
_GIB = 1 << 30
_SLOPE = 0.2


class NonLocal(nn.Module):
    """Attention between all places of all frames, added to its input: (B, C, h, w) -> (B, C, h, w), h and w even.

    A place is a square of 2x2 pixels, its query and its key are the pixels themselves. There are h * w / 4 of them, and
    a weight for each pair: memory grows with the fourth power of the side. Without gradients the queries go piece by
    piece, which changes nothing in the result; gradients need all weights at once.

    Args:
        num_channel: channels C, those of all frames.
        max_attention: GiB that the weights may take in training.
    """

    def __init__(self, num_channel: int, max_attention: float) -> None:
        super().__init__()
        self.max_attention = max_attention
        self.value, self.out = (nn.Conv2d(4 * num_channel, 4 * num_channel, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map frames joined along their channels.

        Raises:
            UserError: gradients are wanted, and the weights take more than ``max_attention``.
        """
        squares = F.pixel_unshuffle(x, 2)
        value = self.value(squares).flatten(2).transpose(1, 2)
        wide = torch.promote_types(x.dtype, torch.float32)  # scores reach 4 C, too large for half precision's steps
        with torch.autocast(x.device.type, enabled=False):
            place = squares.to(wide).flatten(2)
            size = place.shape[2] if exporting() else self._piece(x, place)
            pieces = [place] if exporting() else place.split(size, 2)
            mixed = torch.cat([(q.transpose(1, 2) @ place).softmax(2) @ value.to(wide) for q in pieces], 1)
        return x + F.pixel_shuffle(self.out(mixed.to(value.dtype).transpose(1, 2).unflatten(2, squares.shape[2:])), 2)

    def _piece(self, x: Tensor, place: Tensor) -> int:
        """Choose how many queries go at once."""
        batch, _, count = place.shape
        row = batch * count * place.element_size()
        if not torch.is_grad_enabled():
            return max(1, _PIECE // row)
        if row * count > self.max_attention * _GIB:
            side = 2 * math.isqrt(math.isqrt(int(self.max_attention * _GIB) // (place.element_size() * batch)))
            raise UserError(
                f"PFNL: the weights of its non-local block take {row * count / _GIB:.3g} GiB for {batch} window(s) of "
                f"{x.shape[-2]}x{x.shape[-1]} LR pixels, more than max_attention ({self.max_attention:g}), as they "
                f"grow with the fourth power of the side; train on LR crops of at most {side} pixels (gt_size "
                f"{4 * side}), on smaller batches, or raise max_attention"
            )
        return count


class FusionBlock(nn.Module):
    """A progressive fusion residual block: each frame learns from what all have in common.

    Args:
        num_frame: frames.
        num_feat: channels of each.
    """

    def __init__(self, num_frame: int, num_feat: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_common = nn.Conv2d(num_frame * num_feat, num_feat, 1)
        self.conv_out = nn.Conv2d(2 * num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, n, C, h, w) to the same shape."""
        own = F.leaky_relu(self.conv_in(x.flatten(0, 1)), _SLOPE).unflatten(0, x.shape[:2])
        common = F.leaky_relu(self.conv_common(own.flatten(1, 2)), _SLOPE)
        joint = torch.cat((common.unsqueeze(1).expand_as(own), own), 2).flatten(0, 1)
        return x + F.leaky_relu(self.conv_out(joint), _SLOPE).unflatten(0, x.shape[:2])


@ARCH_REGISTRY.register()
class PFNL(nn.Module):
    """Progressive fusion with a non-local block: RGB (B, n, 3, h, w) in [0, 1] -> (B, 3, 4h, 4w), h and w even.

    F^SR is the output of ``upsampler``: num_hr_feat channels at *twice* the LR size, since the last pixel-shuffle makes
    the image itself. ``f_lr`` is the center frame's feature after the last block. The published loss is the mean of
    sqrt(d^2 + 1e-6): ``{type: CharbonnierLoss, eps: 1e-6}``.

    The non-local block looks at the whole frame, so that tiles (``--tile``) differ a little from the whole; see
    NonLocal for its memory. An exported graph holds all weights at once: 4 GiB for frames of 480x270.

    Args:
        num_frame: frames of a window, odd.
        num_feat: channels of a frame's feature.
        num_block: progressive fusion blocks.
        num_hr_feat: channels of F^SR.
        base: what the output is added to: 'legacy' (TensorFlow 1's bicubic; published, for BD data), 'bicubic'
            (MATLAB's, for BI data), 'bilinear', 'repeat' or 'none'.
        max_attention: GiB that the non-local weights may take in training.
    """

    def __init__(
        self, num_frame: int = 7, num_feat: int = 64, num_block: int = 20, num_hr_feat: int = 12, base: str = "legacy",
        max_attention: float = 2.0,
    ) -> None:  # fmt: skip
        super().__init__()
        one_of("PFNL", "num_frame", num_frame, (3, 5, 7))
        if not max_attention > 0:
            raise UserError(f"PFNL: max_attention must be above 0 (GiB), got {max_attention}")
        self.non_local = NonLocal(3 * num_frame, max_attention)
        self.conv_first = nn.Conv2d(3, num_feat, 5, padding=2)
        self.blocks = nn.Sequential(*(FusionBlock(num_frame, num_feat) for _ in range(num_block)))
        self.feature = nn.Identity()
        self.conv_merge = nn.Conv2d(num_frame * num_feat, 4 * num_hr_feat, 3, padding=1)
        self.upsampler = nn.PixelShuffle(2)
        self.conv_last = nn.Conv2d(num_hr_feat, 12, 3, padding=1)
        self.base = Base(4, base)
        start_as_xavier(self)
        start_near_base(self.conv_last, base)
        self.traits = Traits("window", 4, num_frame, multiple=2, taps={"f_sr": "upsampler", "f_lr": "feature"})

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (B, num_frame, 3, h, w) to the center frame (B, 3, 4h, 4w)."""
        count = x.shape[1]
        half, frames = count // 2, self.non_local(x.flatten(1, 2)).unflatten(1, (count, 3))
        features = F.leaky_relu(self.conv_first(frames.flatten(0, 1)), _SLOPE).unflatten(0, (-1, count))
        features = self.blocks(features)
        center = self.feature(features[:, half])
        features = torch.cat((features[:, :half].flatten(1, 2), center, features[:, half + 1 :].flatten(1, 2)), 1)
        feature = self.upsampler(F.leaky_relu(self.conv_merge(features), _SLOPE))
        return self.base(F.pixel_shuffle(self.conv_last(feature), 2), x[:, half])
