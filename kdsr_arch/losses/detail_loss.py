"""Terms on images that count fine detail: L1 of Fourier and wavelet transforms and of neighbors' differences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdsr_arch.errors import UserError
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import DistillLoss, require_map
from kdsr_arch.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class FFTLoss(DistillLoss):
    """Mean absolute difference of the real and imaginary parts of both images' 2-D Fourier transforms.

    Without `student` and `teacher` the outputs are compared; the published term is ``{student: output, teacher: gt,
    loss_weight: 0.05}`` beside the pixel loss. The transform is not normalized: its values grow with the side of the
    crop, and 0.05 is for the sum over one crop.

    Source: Sun et al., "Spatially-Adaptive Feature Modulation for Efficient Image Super-Resolution", ICCV 2023, as the
    authors' code computes it (``rfft2``: half of the spectrum, which of real images holds all).
    """

    about = About(
        "the Fourier transform of the image",
        "Sun et al. (SAFMN), ICCV 2023",
        "mean |rfft2(S(x)) - rfft2(y)|",
        "{student: output, teacher: gt, loss_weight: 0.05}",
        ratio="1.5 to 3.2",
        options="train_fft.yml",
    )

    align_channels = False
    align_size = False

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        s, t = (torch.view_as_real(torch.fft.rfft2(require_map("FFTLoss", x))) for x in (student, teacher))
        return F.l1_loss(s, t)


@LOSS_REGISTRY.register()
class GradientLoss(DistillLoss):
    """Mean absolute difference of the differences between horizontal and between vertical neighbors, halved sum.

    What a perceptual loss asks for at edges, without the weights of a VGG. Compares the outputs, or with
    ``{student: output, teacher: gt}`` the output with the ground truth.

    Source: Mathieu et al., "Deep multi-scale video prediction beyond mean square error", ICLR 2016, equation 6, with
    alpha 1, signed differences and the mean over pixels.
    """

    about = About(
        "differences between neighbors",
        "Mathieu et al., ICLR 2016",
        "(mean |∂_h(S(x) - y)| + mean |∂_v(S(x) - y)|) / 2",
        "{student: output, teacher: gt}",
    )

    align_channels = False
    align_size = False

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        error = require_map("GradientLoss", student) - require_map("GradientLoss", teacher)
        return (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2


@LOSS_REGISTRY.register()
class WaveletLoss(DistillLoss):
    """L1 between both images' Haar wavelet transforms: of the details of every level, and of the mean of the last.

    The transform is orthonormal. Each level adds the mean over its three kinds of details, the last level the mean over
    what is left. Without `student` and `teacher` the outputs are compared: MTKD's distillation term, beside 0.1 times
    the pixel loss.

    Source: Jiang et al., "MTKD: Multi-Teacher Knowledge Distillation for Image Super-Resolution", ECCV 2024, as the
    authors' ``dwtLoss`` computes it (its option files take L1 of the images instead).

    Args:
        levels: how often the image is halved; its sides must be multiples of 2^levels.
    """

    about = About(
        "MTKD's distillation term: wavelets",
        "Jiang et al., ECCV 2024",
        "Σ_levels mean |W(S(x)) - W(T(x))|, W the Haar transform",
        "none, 1 beside 0.1 x pixel",
        ratio="280 to 1,400",
        options="train_wavelet.yml",
    )

    align_channels = False
    align_size = False

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        if levels < 1:
            raise UserError(f"WaveletLoss: levels must be 1 or more, not {levels}")
        self.levels = levels

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        """Return the loss of two maps (B, C, H, W), whose sides are multiples of 2^levels."""
        error = require_map("WaveletLoss", student) - require_map("WaveletLoss", teacher)  # the transform is linear
        unit = 2**self.levels
        if error.shape[-1] % unit or error.shape[-2] % unit:
            size = f"{error.shape[-2]}x{error.shape[-1]}"
            raise UserError(f"WaveletLoss: {size} is no multiple of {unit}: use fewer levels, or another gt_size")
        total = error.new_zeros(())
        for _ in range(self.levels):
            parts = F.pixel_unshuffle(error, 2).unflatten(1, (-1, 4))
            a, b, c, d = parts.unbind(2)
            details = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d]) / 2
            total, error = total + details.abs().mean(), (a + b + c + d) / 2
        return total + error.abs().mean()
