"""Weights as the variables of a TensorFlow graph, in npz files of arrays under the graph's names.

A checkpoint becomes one with TensorFlow, ``r = tf.train.load_checkpoint(FILE)`` and ``np.savez(OUT, **{name:
r.get_tensor(name) for name in r.get_variable_to_shape_map()})``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kdsr_arch.convert.names import DROP, State, Table, rename
from kdsr_arch.errors import UserError

if TYPE_CHECKING:  # as in names
    from torch import Tensor

PFNL_VARIABLES: Table = [
    (r"nlvsr\.nlblock_0\.g\.g\.", "non_local.value."),
    (r"nlvsr\.nlblock_0\.w\.w\.", "non_local.out."),
    (r"nlvsr\.conv0\.", "conv_first."),
    (r"nlvsr\.conv1_(\d+)\.", r"blocks.\1.conv_in."),
    (r"nlvsr\.conv10_(\d+)\.", r"blocks.\1.conv_common."),
    (r"nlvsr\.conv2_(\d+)\.", r"blocks.\1.conv_out."),
    (r"nlvsr\.convmerge1\.", "conv_merge."),
    (r"nlvsr\.convmerge2\.", "conv_last."),
]

DRVSR_VARIABLES: Table = [
    (r"easyflow\.c(\d)\.", lambda m: f"motion.coarse.{2 * int(m[1]) - 2}."),
    (r"easyflow\.s(\d)\.", lambda m: f"motion.fine.{2 * int(m[1]) - 2}."),
    (r"srmodel\.enc([123])\.", r"enc\1.0."),
    (r"srmodel\.enc2_1\.", "enc2.2."),
    (r"srmodel\.convLSTM\.LSTM_conv\.", "cell.conv."),
    (r"srmodel\.enc3_1\.", "dec3.0."),
    (r"srmodel\.dec1\.", "up2.0."),
    (r"srmodel\.dec1_1\.", "dec2.0."),
    (r"srmodel\.dec2\.", "up1.0."),
    (r"srmodel\.dec2_1\.", "dec1.0."),
    (r"srmodel\.dec3\.", "conv_last."),
]

LTDVSR_VARIABLES: Table = [  # the names of a branch's layers end in 0, 1, 3, 2 in the order in which they are run
    (r"flow\.", "motion."),
    (r"ltdvsr\.conv(\d)_([0123])\.", lambda m: f"branches.{m[1]}.{2 * '0132'.index(m[2])}."),
    (r"ltdvsr\.tem(\d)\.", lambda m: f"modulation.{2 * int(m[1])}."),
]


def from_variables(arrays: Mapping[str, Tensor], table: Table) -> State:
    """Convert the variables of a TensorFlow graph, transposed convolutions among them, for PyTorch.

    Args:
        arrays: such as ``scope/conv1/kernel`` and ``scope/conv1/bias``, or ``weights`` and ``biases``; a suffix ":0" is
            no matter.
        table: from ``scope.conv1.`` to our module; what it does not name (the optimizer's, counters) is left out.
    """
    plain = {name.split(":")[0].replace("/", "."): value for name, value in arrays.items()}
    known = {name: value for name, value in plain.items() if re.fullmatch(r".*\.(kernel|weights|bias|biases)", name)}
    out: State = {}
    for name, value in rename(known, [*table, (r".*", DROP)]).items():
        module, _, kind = name.rpartition(".")
        if kind in ("kernel", "weights"):
            out[f"{module}.weight"] = value.permute(3, 2, 0, 1).contiguous() if value.dim() == 4 else value
        else:
            out[f"{module}.bias"] = value
    return out


def _channel_first(value: Tensor, axis: int, factor: int) -> Tensor:
    """Reorder what a pixel-shuffle takes or gives: TensorFlow counts (dy, dx, channel), PyTorch (channel, dy, dx)."""
    if value.dim() <= axis or value.shape[axis] % factor**2:
        return value  # of another network, which is refused by its shapes
    return value.unflatten(axis, (factor**2, -1)).transpose(axis, axis + 1).flatten(axis, axis + 1)


def pfnl_from_variables(arrays: Mapping[str, Tensor]) -> State:
    """Convert PFNL of psychopa4/PFNL."""
    state = from_variables(arrays, PFNL_VARIABLES)
    if "non_local.value.weight" in state:
        state["non_local.value.weight"] = _channel_first(state["non_local.value.weight"], 1, 2)
    for layer in ("non_local.out", "conv_merge", "conv_last"):
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in state:
                state[name] = _channel_first(state[name], 0, 2)
    return state


def drvsr_from_variables(arrays: Mapping[str, Tensor]) -> State:
    """Convert DRVSR of psychopa4/PFNL."""
    return from_variables(arrays, DRVSR_VARIABLES)


def ltdvsr_from_variables(arrays: Mapping[str, Tensor]) -> State:
    """Convert the rebuild of Liu 2017 of psychopa4/PFNL."""
    return from_variables(arrays, LTDVSR_VARIABLES)


def _from_prefixes(arrays: Mapping[str, Tensor], names: Mapping[str, str]) -> State:
    """Convert the layers at some prefixes, all of which must be there, each with a kernel and a bias.

    Args:
        arrays: such as ``scope.conv1.kernel`` and ``scope.conv1.bias``.
        names: the stored prefix -> our module's name.
    """
    for entry in (f"{prefix}.{kind}" for prefix in names for kind in ("kernel", "bias")):
        if entry not in arrays:
            raise UserError(f"the weights lack '{entry}'; they hold {', '.join(sorted(arrays)[:6])}, ...")
    return from_variables(arrays, [(rf"{re.escape(prefix)}\.", f"{name}.") for prefix, name in names.items()])


def vespcn_from_hwio(arrays: Mapping[str, Tensor]) -> State:
    """Convert VESPCN without motion compensation of HighVoltageRocknRoll/sr.

    It is ``VESPCN(block='plain', num_feat=24, num_hr_feat=0, num_block=3, color='y', motion=False)``.
    """
    names = ("fusion.conv", "body.1", "body.3", "body.5", "conv_up")
    return _from_prefixes(arrays, {f"vespcn.conv{i}": name for i, name in enumerate(names, 1)})


def vsrnet_from_hwio(arrays: Mapping[str, Tensor]) -> State:
    """Convert VSRNet with one first convolution over 3 frames of HighVoltageRocknRoll/sr.

    It is ``VSRNet(num_frame=3, fusion='early', flow='none')``. Its last ReLU is left out: it only clips
    negative values.
    """
    return _from_prefixes(arrays, {"vsrnet.conv1": "conv1.0", "vsrnet.conv2": "conv2", "vsrnet.conv3": "conv3"})
