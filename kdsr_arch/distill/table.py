"""The table of terms that the dry run prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from kdsr_arch.distill.terms import TermReport

_HEAD = ("term", "loss", "student tap", "teacher tap", "student shape", "teacher shape", "adapter", "weight")


def render(reports: Sequence[TermReport]) -> str:
    """Aligned columns: term | loss | taps | shapes | adapter | weight; a sentence where there is no term."""
    if not reports:
        return "no distillation: the student is trained alone"
    rows = [_HEAD, *(astuple(r) for r in reports)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-+-".join("-" * width for width in widths), *lines[1:]])
