"""Networks in the form that is fastest at inference: branches folded, transposed convolutions as plain ones."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsr_arch.archs.arch_util import SubPixelDeconv
from kdsr_arch.infer.runner import fold, foldable


class PhaseConv(nn.Module):
    """A transposed convolution as a convolution with a constant kernel and a pixel-shuffle.

    Args:
        deconv: square kernel and stride; its kernel is rearranged once.
    """

    def __init__(self, deconv: SubPixelDeconv) -> None:
        super().__init__()
        self.stride = s = deconv.stride[0]
        self.extra, self.pads = deconv.extra, deconv.pads
        self.multiply_adds_per_pixel = deconv.multiply_adds_per_pixel
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
