"""The module that is exported, its example inputs, and what is written about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import kdsr_arch
from kdsr_arch.export.graphs import graph_form
from kdsr_arch.export.reparam import reparametrise
from kdsr_arch.export.source import METADATA_KEY, Student
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.bicubic import upsample_bicubic

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
        """LR images or frames, float32 in [0, 1] and not yet enlarged, to restored ones, float32."""
        x = upsample_bicubic(lq, self.enlarge) if self.enlarge > 1 else lq
        return self.net(x.half()).float() if self.half_precision else self.net(x)


@dataclass(frozen=True)
class Prepared:
    """A student in its export form.

    Attributes:
        module: what is exported.
        reference: the student as it was trained, which results are compared with.
        changes: what reparametrisation did.
        frames: frames in the input: a window, or the fixed length of a recurrent network's clip; 0 for images.
    """

    module: ExportForm
    reference: ExportForm
    student: Student
    changes: list[str]
    frames: int
    half: bool

    @property
    def dynamic_axes(self) -> tuple[int, ...]:
        """Batch, height, width."""
        return (0, 2, 3) if self.student.traits.mode == "image" else (0, 3, 4)

    def example(self, height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
        """Random LR input; sides are rounded up to what the network takes."""
        traits = self.student.traits
        unit, least = traits.lr_multiple, max(traits.lr_minimum, 8)
        sides = [-(-max(side, least) // unit) * unit for side in (height, width)]
        channels = 1 if traits.color == "y" else 3
        shape = (batch, channels, *sides) if traits.mode == "image" else (batch, self.frames, channels, *sides)
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def prepare(student: Student, *, half: bool = False, frames: int | None = None, reparam: bool = True) -> Prepared:
    """Put a student in its export form.

    Args:
        half: float16 inside, float32 at both ends.
        frames: clip length of a recurrent network, which a graph fixes; 5 by default, or what it takes at least.
        reparam: fold away what only training needs.
    """
    traits = student.traits
    net, changes = reparametrise(student.net) if reparam else (student.net, [])
    net = graph_form(net)
    length = {"image": 0, "window": traits.num_frame}.get(traits.mode, frames or max(5, traits.min_clip))
    if half and net is student.net:
        import copy

        net = copy.deepcopy(net)
    return Prepared(
        ExportForm(net, traits, half).eval(), ExportForm(student.net, traits).eval(), student, changes, length, half
    )


def metadata(prepared: Prepared, **more: Any) -> dict[str, str]:
    """What goes into the file: everything as JSON under 'kdsr', and the main facts one by one for other tools."""
    student, traits = prepared.student, prepared.student.traits
    facts = {
        "version": kdsr_arch.__version__, "scale": traits.scale, "color": traits.color, "mode": traits.mode,
        "num_frame": traits.num_frame, "multiple": traits.lr_multiple, "min_size": traits.lr_minimum,
        "min_clip": prepared.frames if traits.mode == "recurrent" else traits.min_clip,
        "precision": "fp16" if prepared.half else "fp32", "network": student.network,
        "input": f"lq {_LAYOUTS[traits.mode]}, float32 in [0, 1]", "output": "sr, float32, not clamped",
        "weights": student.weights.name, "weights_sha256": student.digest, "reparametrised": prepared.changes, **more,
    }  # fmt: skip
    plain = {key: str(value) for key, value in facts.items() if not isinstance(value, (dict, list))}
    return {**plain, METADATA_KEY: json.dumps(facts)}
