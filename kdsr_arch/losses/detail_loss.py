"""Terms on images that count fine detail: L1 of the Fourier transform, L1 of the differences between neighbors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

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

    align_channels = False
    align_size = False

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        error = require_map("GradientLoss", student) - require_map("GradientLoss", teacher)
        return (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
