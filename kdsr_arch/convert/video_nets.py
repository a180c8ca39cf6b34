"""Weights of other implementations of the video networks, brought to this project's names and layouts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from kdsr_arch.errors import UserError

State = dict[str, Tensor]

_LOSEAL_NAMES = {
    "sr.entry.body.0.": "fusion.conv.",
    "sr.conv.body.0.": "conv_up.",
    "sr.exit.body.0.": "conv_last.",
    "sr.body.": "body.",
    "mc.flownet.coarse_flow.": "motion.coarse.",
    "mc.flownet.fine_flow.": "motion.fine.",
}


def vespcn_from_loseal(state: Mapping[str, Tensor]) -> State:
    """Weights of the residual VESPCN of LoSealL/VideoSuperResolution for ours with ``coarse_gain: 1``.

    There the centre frame comes last in the first convolution's input; here frames are in order of time. The flow
    differs by (w-1)/w and (h-1)/h, see MotionCompensation.

    Args:
        state: names such as ``sr.entry.body.0.weight``, ``mc.flownet.coarse_flow.0.0.weight``.
    """
    out: State = {}
    for name, value in state.items():
        prefix = next((p for p in _LOSEAL_NAMES if name.startswith(p)), None)
        if prefix is None:
            raise UserError(f"'{name}' is not a weight of that VESPCN")
        rest = name[len(prefix) :]
        if prefix.startswith("mc."):  # (layer).0.weight; an activation follows each layer here
            layer, _, kind = rest.split(".")
            rest = f"{2 * int(layer)}.{kind}"
        out[_LOSEAL_NAMES[prefix] + rest] = value
    out["fusion.conv.weight"] = _center_last_to_middle(out["fusion.conv.weight"], out["conv_last.weight"].shape[0])
    return out


def _center_last_to_middle(weight: Tensor, num_channel: int) -> Tensor:
    frames = list(weight.split(num_channel, 1))
    frames.insert(len(frames) // 2, frames.pop())
    return torch.cat(frames, 1)


def from_hwio(arrays: Mapping[str, np.ndarray], names: Mapping[str, str]) -> State:
    """Convolutions stored by TensorFlow (kernel: height, width, in, out) as PyTorch's (out, in, height, width).

    Args:
        arrays: e.g. an opened npz with ``scope.conv1.kernel`` and ``scope.conv1.bias``.
        names: the stored prefix -> our module's name.
    """
    out: State = {}
    for prefix, name in names.items():
        for kind in ("kernel", "bias"):
            if f"{prefix}.{kind}" not in arrays:
                raise UserError(f"the weights lack '{prefix}.{kind}'; they hold {', '.join(sorted(arrays)[:6])}, ...")
        out[f"{name}.weight"] = torch.from_numpy(arrays[f"{prefix}.kernel"].transpose(3, 2, 0, 1).copy())
        out[f"{name}.bias"] = torch.from_numpy(np.array(arrays[f"{prefix}.bias"]))
    return out


def vespcn_from_hwio(arrays: Mapping[str, np.ndarray]) -> State:
    """VESPCN without motion compensation of HighVoltageRocknRoll/sr: ``VESPCN(block='plain', num_feat=24,
    num_hr_feat=0, num_block=3, color='y', motion=False)``."""
    names = {
        "vespcn.conv1": "fusion.conv",
        "vespcn.conv2": "body.1",
        "vespcn.conv3": "body.3",
        "vespcn.conv4": "body.5",
        "vespcn.conv5": "conv_up",
    }
    return from_hwio(arrays, names)


def vsrnet_from_usstdqq(state: Mapping[str, Tensor]) -> State:
    """Weights of usstdqq/vsrnet_pytorch (symmetric sharing, 5 frames, Y) for ``VSRNet()``: conv1_f0 -> conv1.0."""
    return {name.replace("conv1_f", "conv1."): value for name, value in state.items()}


def vsrnet_from_hwio(arrays: Mapping[str, np.ndarray]) -> State:
    """VSRNet with one first convolution over 3 frames of HighVoltageRocknRoll/sr: ``VSRNet(num_frame=3,
    fusion='early', flow='none')``. Its last ReLU is left out: it only clips negative values."""
    return from_hwio(arrays, {"vsrnet.conv1": "conv1.0", "vsrnet.conv2": "conv2", "vsrnet.conv3": "conv3"})
