"""The mean colour of DIV2K, which many networks subtract first and add back last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class MeanShift(nn.Module):
    """Adds a constant colour to RGB, as the frozen 1x1 convolution of 12 parameters that published weights hold."""

    def __init__(self, shift: Sequence[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3).view(3, 3, 1, 1), requires_grad=False)
        self.bias = nn.Parameter(torch.tensor(shift), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """RGB (B, 3, h, w) plus the colour."""
        return F.conv2d(x, self.weight, self.bias)


def mean_shifts(img_range: float = 1.0) -> tuple[MeanShift, MeanShift]:
    """The shifts that subtract and add the mean colour of images in 0..img_range."""
    mean = [img_range * m for m in DIV2K_MEAN]
    return MeanShift([-m for m in mean]), MeanShift(mean)
