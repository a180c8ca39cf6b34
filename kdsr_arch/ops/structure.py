"""The structure of an image: what is left of it at half the size; its details are the rest."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdsr_arch.errors import UserError


def structure_of(x: Tensor) -> Tensor:
    """Halve and double (..., C, h, w) bilinearly, h and w even. Differentiable.

    Source: Isobe et al., "Video Super-Resolution with Recurrent Structure-Detail Network", ECCV 2020, section 3.2.

    Raises:
        UserError: odd sides, which do not come back.
    """
    if x.shape[-1] % 2 or x.shape[-2] % 2:
        raise UserError(f"structure and detail need even heights and widths, got {x.shape[-2]}x{x.shape[-1]}")
    flat = x.reshape(-1, *x.shape[-3:])
    half = F.avg_pool2d(flat, 2)  # what bilinear interpolation is at half the size
    return F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False).reshape(x.shape)
