"""Multiply-adds of a network, counted while it runs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_flops(net: nn.Module, *inputs: Any) -> int:
    """Count the multiply-adds of one forward pass in evaluation mode, without gradient.

    Counted are convolutions (transposed and deformable ones as well), linear layers, matrix products and attention.
    Element-wise work, activations and the bilinear sampling of deformable convolutions are not, as is usual in the
    super-resolution literature. One multiply-add is one; some papers count two operations.

    Args:
        net: any network; its training mode is left as it was.
        inputs: its arguments; the network really runs on them.
    """
    modes = {module: module.training for module in net.modules()}
    net.eval()
    # Ours runs as matrix products, which are counted; torchvision's compiled operator is one opaque call.
    operator = getattr(torch.ops.torchvision, "deform_conv2d", None)
    mapping = {} if operator is None else {operator: _deform_conv_operations}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    try:
        with torch.no_grad(), counter:
            net(*inputs)
    finally:
        for module, training in modes.items():
            module.training = training
    return counter.get_total_flops() // 2  # the counter's floating point operations are two for each multiply-add


def count_parameters(net: nn.Module) -> int:
    """Count trainable and frozen parameters, shared ones once."""
    return sum(parameter.numel() for parameter in net.parameters())


def _deform_conv_operations(*args: Any, out_shape: torch.Size, **kwargs: Any) -> int:
    return 2 * math.prod(args[1][1:]) * out_shape.numel()  # args[1]: the shape of the weight
