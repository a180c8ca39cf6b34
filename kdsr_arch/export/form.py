"""The module that is exported: what only training needs is folded away, results stay the same; and its metadata."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdsr_arch
from kdsr_arch.archs.arch_util import SubPixelDeconv
from kdsr_arch.export.graphs import graph_form
from kdsr_arch.infer.fold import fold, foldable
from kdsr_arch.infer.open import Opened
from kdsr_arch.infer.traits import Traits
from kdsr_arch.io import METADATA_KEY
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

    def example(self, height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
        """Make a random LR input; sides are rounded up to what the network takes."""
        traits = self.student.traits
        unit, least = traits.lr_multiple, max(traits.lr_minimum, 8)
        sides = [-(-max(side, least) // unit) * unit for side in (height, width)]
        channels = 1 if traits.color == "y" else 3
        shape = (batch, channels, *sides) if traits.mode == "image" else (batch, self.frames, channels, *sides)
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def prepare(student: Opened, *, half: bool = False, frames: int | None = None, reparam: bool = True) -> Prepared:
    """Put a student in its export form.

    Args:
        half: float16 inside, float32 at both ends.
        frames: clip length of a recurrent network, which a graph fixes; 5 by default, or what it takes at least.
        reparam: fold away what only training needs.
    """
    traits = student.traits
    net, changes = reparametrize(student.net) if reparam else (student.net, [])
    net = graph_form(net)
    length = {"image": 0, "window": traits.num_frame}.get(traits.mode, frames or max(5, traits.min_clip))
    if half and net is student.net:
        net = copy.deepcopy(net)
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
        "precision": "fp16" if prepared.half else "fp32", "network": student.network,
        "input": f"lq {_LAYOUTS[traits.mode]}, float32 in [0, 1]", "output": "sr, float32, not clamped",
        "weights": student.weights.name if student.weights else "", "weights_sha256": student.digest,
        "reparametrized": prepared.changes, **more,
    }  # fmt: skip
    plain = {key: str(value) for key, value in facts.items() if not isinstance(value, (dict, list))}
    return {**plain, METADATA_KEY: json.dumps(facts)}


# ----------------------------------------------------------------------------------------- the fast form of layers


class PhaseConv(nn.Module):
    """A transposed convolution as a convolution with a constant kernel and a pixel-shuffle.

    Args:
        deconv: square kernel and stride; its kernel is rearranged once.
    """

    def __init__(self, deconv: SubPixelDeconv) -> None:
        super().__init__()
        self.stride = s = deconv.stride[0]
        self.extra = deconv.kernel_size[0] - 2 * int(deconv.padding[0]) + deconv.output_padding[0]
        self.pads = (-deconv.first, deconv.last + -(-self.extra // s) - 1)
        weight = deconv.phase_weight().detach()
        self.conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], bias=deconv.bias is not None)
        if self.pads[0] == self.pads[1]:
            self.conv.padding = (self.pads[0], self.pads[0])
        self.conv.to(weight)
        with torch.no_grad():
            self.conv.weight.copy_(weight)
            if self.conv.bias is not None and deconv.bias is not None:
                self.conv.bias.copy_(deconv.bias.repeat_interleave(s * s))

    def forward(self, x: Tensor) -> Tensor:
        """Compute what the transposed convolution gives for (N, C, h, w)."""
        height, width = ((n - 1) * self.stride + self.extra for n in x.shape[-2:])
        if self.pads[0] != self.pads[1]:
            x = F.pad(x, (*self.pads, *self.pads))
        y = F.pixel_shuffle(self.conv(x), self.stride)
        if self.extra == self.stride:  # the usual case: nothing to cut, and no such step in a graph
            return y
        return y[..., :height, :width]


def _as_sub_pixel(module: nn.Module) -> SubPixelDeconv | None:
    """The module as a SubPixelDeconv; None where it is no transposed convolution of that form."""
    if type(module) is SubPixelDeconv:  # a subclass does something of its own around it
        return module
    if type(module) is not nn.ConvTranspose2d or module.groups != 1 or module.dilation != (1, 1):
        return None
    kernel, stride, padding, rest = module.kernel_size, module.stride, module.padding, module.output_padding
    square = all(len(set(pair)) == 1 for pair in (kernel, stride, padding, rest))
    if not square or stride[0] == 1 or kernel[0] < stride[0]:
        return None
    deconv = SubPixelDeconv(
        module.in_channels,
        module.out_channels,
        kernel[0],
        stride[0],
        int(padding[0]),
        rest[0],
        bias=module.bias is not None,
    )
    deconv.to(module.weight)
    deconv.load_state_dict(module.state_dict())
    return deconv


def reparametrize(net: nn.Module) -> tuple[nn.Module, list[str]]:
    """Copy a network for inference, equal to rounding; returns the copy and what was changed in it.

    A network's own ``for_inference()`` comes first; then layers of several branches are folded, and every transposed
    convolution becomes a convolution and a pixel-shuffle. Activations (PReLU) are kept.
    """
    changes = []
    if hasattr(net, "for_inference"):
        net = cast(nn.Module, net.for_inference())  # type: ignore[operator]
        changes.append(f"{type(net).__name__}.for_inference")
    changes += [f"{path}: {type(net.get_submodule(path)).__name__} -> convolution" for path in foldable(net)]
    net = fold(net)
    for path, module in list(net.named_modules()):
        deconv = _as_sub_pixel(module)
        if deconv is not None and path:
            parent, _, name = path.rpartition(".")
            setattr(net.get_submodule(parent), name, PhaseConv(deconv))
            changes.append(f"{path}: transposed convolution -> convolution and pixel-shuffle")
    return net.eval().requires_grad_(False), changes
