"""The module that is exported: what only training needs is folded away, results stay the same; and its metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import kdsr_arch
from kdsr_arch.archs.inference_form import reparametrize
from kdsr_arch.archs.int8_arch import Int8
from kdsr_arch.errors import UserError
from kdsr_arch.export.graphs import graph_form
from kdsr_arch.infer.open import Opened
from kdsr_arch.infer.traits import Traits
from kdsr_arch.io import METADATA_KEY
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.ops.copying import copy_network

SIZE = (180, 320)
"""LR height and width of files that name one, unless the user says another."""
_LAYOUTS = {"image": "(N, C, h, w)", "window": "(N, n, C, h, w)", "recurrent": "(N, T, C, h, w)"}


class ExportForm(nn.Module):
    """The network as users call it: LR frames in [0, 1] in, restored frames out, float32 on both sides.

    Args:
        net: for inference.
        traits: of the network; where it wants enlarged frames, it enlarges them itself.
        half: compute in float16.
    """

    def __init__(self, net: nn.Module, traits: Traits, half: bool = False) -> None:
        super().__init__()
        self.net = net.half() if half else net
        self.half_precision, self.enlarge = half, traits.scale if traits.upsampled_input else 1

    def forward(self, lq: Tensor) -> Tensor:
        """Restore LR images or frames, float32 in [0, 1] and not yet enlarged; the result is float32."""
        x = upsample_bicubic(lq, self.enlarge) if self.enlarge > 1 else lq
        return self.net(x.half()).float() if self.half_precision else self.net(x)


@dataclass(frozen=True)
class Prepared:
    """A student in its export form.

    Attributes:
        module: what is exported.
        reference: the student as it was trained, which results are compared with.
        changes: what reparametrization did.
        frames: frames in the input: a window, or the fixed length of a recurrent network's clip; 0 for images.
    """

    module: ExportForm
    reference: nn.Module
    student: Opened
    changes: list[str]
    frames: int
    half: bool

    @property
    def precision(self) -> str:
        """What it computes in: 'fp32', 'fp16' or 'int8'."""
        return "int8" if isinstance(self.student.net, Int8) else "fp16" if self.half else "fp32"

    def example(self, height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
        """Make a random LR input; sides are rounded up to what the network takes."""
        traits = self.student.traits
        sides = [traits.lr_side(max(side, 8)) for side in (height, width)]
        channels = 1 if traits.color == "y" else 3
        shape = (batch, channels, *sides) if traits.mode == "image" else (batch, self.frames, channels, *sides)
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def prepare(student: Opened, *, half: bool = False, frames: int | None = None, reparam: bool = True) -> Prepared:
    """Put a student in its export form.

    Args:
        half: float16 inside, float32 at both ends.
        frames: clip length of a recurrent network, which a graph fixes; 5 by default, or what it takes at least.
        reparam: fold away what only training needs.

    Raises:
        UserError: an int8 student in another precision, or one that was never trained as such.
    """
    traits = student.traits
    if isinstance(student.net, Int8) and (half or not student.net.measured):
        wrong = "computes in int8: leave --fp16 out" if half else "has no ranges yet: train it in int8 first"
        raise UserError(f"{student.label}: {wrong}")
    net, changes = reparametrize(student.net) if reparam else (student.net, [])
    net = graph_form(net)
    length = {"image": 0, "window": traits.num_frame}.get(traits.mode, frames or max(5, traits.min_clip))
    if half and net is student.net:
        net = copy_network(net)
    return Prepared(
        ExportForm(net, traits, half).eval(), ExportForm(student.net, traits).eval(), student, changes, length, half
    )


def metadata(prepared: Prepared, **more: Any) -> dict[str, str]:
    """List what goes into the file: everything as JSON under 'kdsr', and the main facts one by one for other tools."""
    student, traits = prepared.student, prepared.student.traits
    facts = {
        "version": kdsr_arch.__version__, "scale": traits.scale, "color": traits.color, "mode": traits.mode,
        "num_frame": traits.num_frame, "multiple": traits.lr_multiple, "min_size": traits.lr_minimum,
        "min_clip": prepared.frames if traits.mode == "recurrent" else traits.min_clip,
        "precision": prepared.precision, "network": student.network,
        "input": f"lq {_LAYOUTS[traits.mode]}, float32 in [0, 1]", "output": "sr, float32, not clamped",
        "weights": student.weights.name if student.weights else "", "weights_sha256": student.digest,
        "reparametrized": prepared.changes, **more,
    }  # fmt: skip
    plain = {key: str(value) for key, value in facts.items() if not isinstance(value, (dict, list))}
    return {**plain, METADATA_KEY: json.dumps(facts)}
