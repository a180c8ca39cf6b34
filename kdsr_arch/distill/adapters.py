"""Train-only layers that bring a student's feature map to the channels and size of the teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import UserError, nearest

_KEYS = ("type", "kernel_size", "bias", "resize")
_RESIZES = ("auto", "bilinear", "area", "nearest", "none")


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
        """``feature`` with the teacher's channels and height and width ``size``."""
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
        """For the table of the dry run: ``conv1x1 16->64 + resize``."""
        parts = []
        if self.conv is not None:
            k = self.conv.kernel_size[0]
            parts.append(f"conv{k}x{k} {self.conv.in_channels}->{self.conv.out_channels}")
        if self.resize != "none":
            parts.append("resize" if self.resize == "auto" else f"resize {self.resize}")
        return " + ".join(parts) or "none"


def build_adapter(
    spec: str | dict[str, Any],
    student: torch.Size,
    teacher: torch.Size,
    *,
    align_channels: bool,
    align_size: bool,
    where: str,
) -> Adapter | None:
    """The adapter that a layer of a term needs, from the shapes of the dry run.

    Args:
        spec: 'auto': what the loss needs where shapes differ; 'none': never one; or ``{type: conv1x1, bias, resize}``
            (``convKxK`` for odd K, or ``type: resize`` alone): that one, differing or not.
        student, teacher: shapes of the recorded maps, (F, C, H, W) where anything has to be adapted.
        align_channels, align_size: what the loss asks for.
        where: names the term and layer in error messages.

    Raises:
        UserError: shapes that differ and cannot, or may not, be aligned; an unknown key of ``spec``.
    """
    if isinstance(spec, dict):
        return _explicit(spec, student, teacher, where)
    if spec not in ("auto", "none"):
        raise UserError(
            f"{where}: adapter '{spec}' is unknown{nearest(spec, ('auto', 'none'))}: use auto, none or "
            "{type: conv1x1}"
        )
    channels = align_channels and len(student) > 1 and student[1] != teacher[1]
    size = align_size and student[2:] != teacher[2:]
    if not channels and not size:
        return None
    shapes = f"student {tuple(student)} and teacher {tuple(teacher)}"
    if spec == "none":
        raise UserError(
            f"{where}: shapes differ ({shapes}) and `adapter: none` forbids aligning them: use `adapter: "
            "auto` or tap other modules"
        )
    if len(student) != 4 or len(teacher) != 4:
        raise UserError(
            f"{where}: {shapes} cannot be aligned: adapters take maps of shape (batch, channels, height, "
            "width); tap other modules"
        )
    return Adapter((student[1], teacher[1]) if channels else None, "auto" if size else "none")


def _explicit(spec: dict[str, Any], student: torch.Size, teacher: torch.Size, where: str) -> Adapter:
    for key in spec:
        if key not in _KEYS:
            raise UserError(f"{where}: unknown adapter key '{key}'{nearest(key, _KEYS)}: it takes {', '.join(_KEYS)}")
    resize = str(spec.get("resize", "auto"))
    if resize not in _RESIZES:
        raise UserError(
            f"{where}: adapter resize '{resize}' is unknown{nearest(resize, _RESIZES)}: use one of "
            f"{', '.join(_RESIZES)}"
        )
    if len(student) != 4 or len(teacher) != 4:
        raise UserError(
            f"{where}: an adapter needs maps of shape (batch, channels, height, width), but the taps give "
            f"student {tuple(student)} and teacher {tuple(teacher)}"
        )
    kind = str(spec.get("type", "conv1x1"))
    if kind == "resize":
        return Adapter(None, resize)
    return Adapter((student[1], teacher[1]), resize, _kernel(kind, spec, where), bool(spec.get("bias", True)))


def _kernel(kind: str, spec: dict[str, Any], where: str) -> int:
    sizes = {f"conv{k}x{k}": k for k in (1, 3, 5, 7)} | {"conv": int(spec.get("kernel_size", 1))}
    if kind not in sizes or sizes[kind] % 2 == 0:
        raise UserError(
            f"{where}: adapter type '{kind}' is unknown{nearest(kind, [*sizes, 'resize'])}: use conv1x1, "
            "conv3x3 or resize"
        )
    return sizes[kind]
