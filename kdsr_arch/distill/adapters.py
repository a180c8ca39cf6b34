"""Train-only layers that bring a student's feature map to the channels and size of the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import UserError
from kdsr_arch.options.schema_train import AdapterOptions


class Adapter(nn.Module):
    """(F, C_s, h, w) -> (F, C_t, H, W): a convolution over channels, a spatial resize, or both.

    The resize comes first where it shrinks the map and last where it enlarges it, whichever is cheaper. Where channels
    agree, the convolution starts as the identity.

    Args:
        channels: (C_s, C_t), or None for no convolution.
        resize: 'bilinear', 'area', 'nearest', 'none', or 'auto': area (mean of the covered pixels) to shrink,
            bilinear to enlarge.
        kernel_size: odd side of the convolution.
        bias: whether the convolution has a bias.
    """

    def __init__(
        self, channels: tuple[int, int] | None, resize: str = "auto", kernel_size: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.resize = resize
        self.conv: nn.Conv2d | None = None
        if channels is not None:
            self.conv = nn.Conv2d(*channels, kernel_size, padding=kernel_size // 2, bias=bias)
            if channels[0] == channels[1]:
                nn.init.dirac_(self.conv.weight)
            else:
                nn.init.kaiming_normal_(self.conv.weight, nonlinearity="linear")
            if self.conv.bias is not None:
                nn.init.zeros_(self.conv.bias)

    def forward(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring ``feature`` to the teacher's channels and to height and width ``size``."""
        shrinks = size[0] * size[1] < feature.shape[-2] * feature.shape[-1]
        if shrinks:
            feature = self._resized(feature, size)
        if self.conv is not None:
            feature = self.conv(feature)
        return feature if shrinks else self._resized(feature, size)

    def _resized(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = feature.shape[-2:]
        if self.resize == "none" or (height, width) == size:
            return feature
        mode = self.resize
        if mode == "auto":
            mode = "area" if size[0] <= height and size[1] <= width else "bilinear"
        if mode == "bilinear":
            return F.interpolate(feature, size=size, mode=mode, align_corners=False, antialias=size[0] < height)
        return F.interpolate(feature, size=size, mode=mode)

    def describe(self) -> str:
        """Describe it for the table of the dry run: ``conv1x1 16->64 + resize``."""
        parts = []
        if self.conv is not None:
            k = self.conv.kernel_size[0]
            parts.append(f"conv{k}x{k} {self.conv.in_channels}->{self.conv.out_channels}")
        if self.resize != "none":
            parts.append("resize" if self.resize == "auto" else f"resize {self.resize}")
        return " + ".join(parts) or "none"


def build_adapter(
    options: str | AdapterOptions,
    student: torch.Size,
    teacher: torch.Size,
    *,
    align_channels: bool,
    align_size: bool,
    where: str,
) -> Adapter | None:
    """Build the adapter that a layer of a term needs, from the shapes of the dry run.

    Args:
        options: 'auto': what the loss needs where shapes differ; 'none': never one; or that one, differing or not.
        student, teacher: shapes of the recorded maps, (F, C, H, W) where anything has to be adapted.
        align_channels, align_size: what the loss asks for.
        where: names the term and layer in error messages.

    Raises:
        UserError: shapes that differ and cannot, or may not, be aligned.
    """
    channels = align_channels and len(student) > 1 and student[1] != teacher[1]
    size = align_size and student[2:] != teacher[2:]
    shapes = f"student {tuple(student)} and teacher {tuple(teacher)}"
    if isinstance(options, str) and not channels and not size:
        return None
    if options == "none":
        raise UserError(
            f"{where}: shapes differ ({shapes}) and `adapter: none` forbids aligning them: use `adapter: "
            "auto` or tap other modules"
        )
    if len(student) != 4 or len(teacher) != 4:
        raise UserError(
            f"{where}: {shapes} cannot be aligned: adapters take maps of shape (batch, channels, height, "
            "width); tap other modules"
        )
    if isinstance(options, AdapterOptions):
        side = (options.kernel_size or 1) if options.type in ("conv", "resize") else int(options.type[-1])
        both = None if options.type == "resize" else (student[1], teacher[1])
        return Adapter(both, options.resize or "auto", side, options.bias is None or options.bias)
    return Adapter((student[1], teacher[1]) if channels else None, "auto" if size else "none")
