"""Option fields that the data sets share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsr_arch.errors import UserError

__all__ = ["color_of", "patch_of"]


def color_of(opt: Mapping[str, Any]) -> str:
    """'rgb' or 'y'."""
    color = str(opt.get("color") or "rgb")
    if color not in ("rgb", "y"):
        raise UserError(f"{opt.get('name', 'data set')}: color '{color}' is unknown; use 'rgb' or 'y'")
    return color


def patch_of(opt: Mapping[str, Any]) -> int:
    """Side of the HR crop in pixels, 0 for whole frames."""
    patch, scale = int(opt.get("gt_size") or 0), int(opt.get("scale", 1))
    if patch < 0 or patch % scale:
        raise UserError(f"{opt.get('name', 'data set')}: gt_size {patch} is not a multiple of the scale {scale}")
    return patch
