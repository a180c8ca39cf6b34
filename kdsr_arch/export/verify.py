"""Compares an exported network with the one it came from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdsr_arch.errors import UserError
from kdsr_arch.export.form import Prepared

SIZES = ((24, 40), (17, 29), (45, 36))  # above 16; larger by as much as the smallest size of the network is
LIMITS = {"fp32": 1e-5, "fp16": 2e-2}


@dataclass(frozen=True)
class Deviation:
    """Largest absolute difference at one LR size, outputs being in [0, 1], and the PSNR that it amounts to."""

    size: tuple[int, int]
    largest: float
    psnr: float

    def __str__(self) -> str:
        return f"{self.size[1]}x{self.size[0]}: max difference {self.largest:.1e} ({self.psnr:.1f} dB)"


@torch.no_grad()
def deviations(prepared: Prepared, run: Callable[[Tensor], Tensor], what: str) -> list[Deviation]:
    """Run both on several sizes, odd ones among them where the network takes any.

    Args:
        run: the exported network.
        what: its format, for messages.

    Raises:
        UserError: it fails at a size, or differs by more than `LIMITS` allow.
    """
    differences, more = [], max(prepared.student.traits.lr_minimum - 16, 0)
    for number, (height, width) in enumerate(SIZES):
        lq = prepared.example(height + more, width + more, batch=1 + number % 2, seed=number)
        expected = prepared.reference(lq)
        try:
            got = run(lq)
        except Exception as error:  # any runtime may fail in any way of its own
            reason = " ".join(str(error).split())[:200]
            size = f"{lq.shape[-1]}x{lq.shape[-2]}"
            raise UserError(f"{what}: the exported network does not run at {size}: {reason}") from None
        if got.shape != expected.shape:
            raise UserError(
                f"{what}: the exported network gives {tuple(got.shape)} instead of {tuple(expected.shape)}: "
                "it does not follow the input's size"
            )
        difference = (got - expected).double()
        power = float(difference.square().mean())
        differences.append(
            Deviation(
                (lq.shape[-2], lq.shape[-1]),
                float(difference.abs().max()),
                10 * math.log10(1 / power) if power else math.inf,
            )
        )
    limit = LIMITS["fp16" if prepared.half else "fp32"] * max(1.0, float(expected.abs().max()))
    worst = max(d.largest for d in differences)
    if not worst <= limit:
        raise UserError(f"{what}: differs from PyTorch by {worst:.1e}, more than {limit:.0e}; not written")
    return differences
