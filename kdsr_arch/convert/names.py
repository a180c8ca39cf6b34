"""How weights are named and laid out elsewhere: tables of patterns, and functions where a table does not do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from kdsr_arch.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import, and a list of the sources does without it
    from torch import Tensor

State = dict[str, "Tensor"]
Table = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

DROP = ""
"""As a replacement for a whole name: the entry is left out (constants that our networks make themselves)."""

MEAN_SHIFT: Table = [(r"(sub|add)_mean\..*", DROP)]

# yulunzhang/RCAN; the last module of a group and of the body is a convolution, unlike a block by what follows.
RCAN_OFFICIAL: Table = [
    *MEAN_SHIFT,
    (r"head\.0\.", "conv_first."),
    (r"body\.(\d+)\.body\.(\d+)\.body\.([02])\.", r"body.\1.residual_group.\2.rcab.\3."),
    (r"body\.(\d+)\.body\.(\d+)\.body\.3\.conv_du\.0\.", r"body.\1.residual_group.\2.rcab.3.attention.1."),
    (r"body\.(\d+)\.body\.(\d+)\.body\.3\.conv_du\.2\.", r"body.\1.residual_group.\2.rcab.3.attention.3."),
    (r"body\.(\d+)\.body\.\d+\.(?=weight|bias)", r"body.\1.conv."),
    (r"body\.\d+\.(?=weight|bias)", "conv_after_body."),
    (r"tail\.0\.(\d+)\.", r"upsample.\1."),
    (r"tail\.1\.", "conv_last."),
]
# FAKD's copy numbers the groups in their names.
RCAN_FAKD: Table = [(r"body_group(\d+)\.", r"body.\1."), (r"body_tail\.", "body.0.")]

EDSR_OFFICIAL: Table = [
    *MEAN_SHIFT,
    (r"head\.0\.", "conv_first."),
    (r"body\.(\d+)\.body\.0\.", r"body.\1.conv1."),
    (r"body\.(\d+)\.body\.2\.", r"body.\1.conv2."),
    (r"body\.\d+\.(?=weight|bias)", "conv_after_body."),
    (r"tail\.0\.(\d+)\.", r"upsample.\1."),
    (r"tail\.1\.", "conv_last."),
]

IDN_CAFFE: Table = [
    (r"conv([12])\.", r"conv\1."),
    *((rf"conv{i + 3}_(\d)\.", rf"blocks.{i}.conv_\1.") for i in range(8)),
    *((rf"down{i + 1}\.", rf"blocks.{i}.down.") for i in range(8)),
    (r"upsample\.", "upsample."),
]

PISR_STUDENT: Table = [(r"vid_module_dict\..*", DROP), (r"backbone\.network\.", "")]
PISR_TEACHER: Table = [(r"backbone\.network\.encoder\.", "encoder."), (r"backbone\.network\.", "decoder.")]

# xinntao/EDVR. Its tAtt_2 embeds the center frame, as temporal_attn1 does here.
EDVR_OFFICIAL: Table = [
    (r"pre_deblur\.conv_first_1\.", "predeblur.conv_first."),
    (r"pre_deblur\.conv_first_([23])\.", lambda m: f"predeblur.stride_conv_hr{int(m[1]) - 1}."),
    (r"pre_deblur\.conv_first\.", "predeblur.conv_first."),
    (r"pre_deblur\.deblur_L([23])_conv\.", r"predeblur.stride_conv_l\1."),
    (r"pre_deblur\.RB_L1_(\d)\.", lambda m: f"predeblur.resblock_l1.{int(m[1]) - 1}."),
    (r"pre_deblur\.RB_L2_(\d)\.", r"predeblur.resblock_l2_\1."),
    (r"pre_deblur\.RB_L3_1\.", "predeblur.resblock_l3."),
    (r"fea_L([23])_conv([12])\.", r"conv_l\1_\2."),
    (r"pcd_align\.L(\d)_offset_conv(\d)\.", r"pcd_align.offset_conv\2.l\1."),
    (r"pcd_align\.L(\d)_dcnpack\.conv_offset_mask\.", r"pcd_align.dcn_pack.l\1.conv_offset."),
    (r"pcd_align\.L(\d)_dcnpack\.", r"pcd_align.dcn_pack.l\1."),
    (r"pcd_align\.L(\d)_fea_conv\.", r"pcd_align.feat_conv.l\1."),
    (r"pcd_align\.cas_dcnpack\.conv_offset_mask\.", "pcd_align.cas_dcnpack.conv_offset."),
    (r"tsa_fusion\.tAtt_2\.", "fusion.temporal_attn1."),
    (r"tsa_fusion\.tAtt_1\.", "fusion.temporal_attn2."),
    (r"tsa_fusion\.fea_fusion\.", "fusion.feat_fusion."),
    (r"tsa_fusion\.sAtt_add_(\d)\.", r"fusion.spatial_attn_add\1."),
    (r"tsa_fusion\.sAtt_L(\d)\.", r"fusion.spatial_attn_l\1."),
    (r"tsa_fusion\.sAtt_(\d)\.", r"fusion.spatial_attn\1."),
    (r"tsa_fusion\.", "fusion."),
    (r"recon_trunk\.", "reconstruction."),
    (r"HRconv\.", "conv_hr."),
]


def rename(state: Mapping[str, Tensor], table: Table) -> State:
    """Put each entry under the name that the first matching pattern gives it; names that match none stay."""
    renamed: State = {}
    for name, value in state.items():
        pattern, replacement = next(((p, r) for p, r in table if re.match(p, name)), ("", ""))
        if new := re.sub(f"^{pattern}", replacement, name, count=1):
            renamed[new] = value
    return renamed


def fsrcnn_from_yjn870(state: Mapping[str, Tensor]) -> State:
    """Rename FSRCNN of yjn870: ``mid_part`` is shrinking, mapping and expanding, layers and slopes in turn."""
    numbers = [int(name.split(".")[1]) for name in state if name.startswith("mid_part.")]
    last = max(numbers, default=1) // 2

    def middle(match: re.Match[str]) -> str:
        layer, part = divmod(int(match[1]), 2)
        if layer in (0, last):
            return f"{'expanding' if layer else 'shrinking'}.0.{part}."
        return f"mapping.{layer - 1}.{part}."

    table: Table = [
        (r"first_part\.([01])\.", r"feature_extraction.0.\1."),
        (r"mid_part\.(\d+)\.", middle),
        (r"last_part\.", "last_layer.0.0."),
    ]
    return rename(state, table)


_EDGE_BRANCHES = ("conv1x1_sbx", "conv1x1_sby", "conv1x1_lpl")


def ecb_from_official(state: Mapping[str, Tensor]) -> State:
    """Convert one block of ECBSR with its branches: ``conv3x3.weight``, ``conv1x1_sbx.k0``, ... to our ``ECB``'s.

    The biases behind the branches are summed; those before the edge filters have no effect.
    """
    import torch

    edges = [{part: state[f"{branch}.{part}"] for part in ("k0", "scale", "bias")} for branch in _EDGE_BRANCHES]
    return {
        "weight": state["conv3x3.weight"],
        "bias": sum((edge["bias"] for edge in edges), state["conv3x3.bias"] + state["conv1x1_3x3.b1"]),
        "expand": state["conv1x1_3x3.k0"].flatten(1),
        "expand_bias": state["conv1x1_3x3.b0"],
        "squeeze": state["conv1x1_3x3.k1"],
        "edge": torch.stack([edge["k0"].flatten(1) for edge in edges]),
        "edge_scale": torch.stack([edge["scale"].flatten() for edge in edges]),
    }


def ecbsr_from_official(state: Mapping[str, Tensor]) -> State:
    """Rename ECBSR for ``PlainSR``: ``backbone.N`` is the head, the body's layers, or the tail, folded or not."""
    last = max(int(name.split(".")[1]) for name in state)
    out: State = {}
    for i in range(last + 1):
        layer = {name.split(".", 2)[2]: value for name, value in state.items() if name.startswith(f"backbone.{i}.")}
        place = "head" if i == 0 else f"body.{i - 1}"
        conv, act = ("tail.", "") if i == last else (f"{place}.0.", f"{place}.1.weight")
        folded = {name.removeprefix("0."): value for name, value in layer.items() if name.startswith("0.")}
        whole = ecb_from_official(layer) if "conv3x3.weight" in layer else folded
        out |= {f"{conv}{name}": value for name, value in whole.items()}
        if act:
            out[act] = layer["act.weight" if "act.weight" in layer else "1.weight"]
    return out


def conv3xc_from_official(state: Mapping[str, Tensor]) -> State:
    """Convert one block of SPAN: its branches to our ``Conv3XC``'s (the folded copy beside them is stale), or folded.

    Args:
        state: ``conv.0.weight``, ``sk.weight``, ..., or ``eval_conv.weight`` and ``eval_conv.bias`` alone.
    """
    if "conv.0.weight" not in state:
        return {name.removeprefix("eval_conv."): value for name, value in state.items()}
    return {
        "expand": state["conv.0.weight"].flatten(1),
        "expand_bias": state["conv.0.bias"],
        "middle": state["conv.1.weight"],
        "middle_bias": state["conv.1.bias"],
        "squeeze": state["conv.2.weight"].flatten(1),
        "skip": state["sk.weight"].flatten(1),
        "bias": state["conv.2.bias"] + state["sk.bias"],
    }


def span_from_official(state: Mapping[str, Tensor]) -> State:
    """Rename SPAN: ``block_3`` -> ``blocks.2``, each convolution folded or with its branches."""
    out: State = {}
    layers: dict[str, State] = {}
    for name, value in state.items():
        parts = re.match(r"(conv_[12]|block_\d+\.c[123]_r)\.(.+)", name)
        if parts is None:
            out[name] = value
        else:
            layers.setdefault(parts[1], {})[parts[2]] = value
    for place, layer in layers.items():
        ours = re.sub(r"block_(\d+)", lambda match: f"blocks.{int(match[1]) - 1}", place)
        out |= {f"{ours}.{name}": value for name, value in conv3xc_from_official(layer).items()}
    return out


def plainusr_from_official(state: Mapping[str, Tensor]) -> State:
    """Rename PlainUSR for inference: its blocks are ``block1``, ..., ``blockm`` in the middle, ..."""
    last = max(int(m[1]) for m in (re.match(r"block(\d+)\.", name) for name in state) if m)

    def place(match: re.Match[str]) -> str:
        number = last // 2 if match[1] == "m" else int(match[1]) - (int(match[1]) <= last // 2)
        return f"blocks.{number}."

    return rename(state, [(r"block(\d+|m)\.body\.", place)])


def etds_from_official(state: Mapping[str, Tensor]) -> State:
    """Convert ETDS in its form for inference to ``PlainSR(act='relu', residual='none')``.

    Its last two layers clip the image to [0, 1] as 1 - relu(1 - relu(1 - y)); ours gives y. At x3 they have a channel
    more than the image, which is always 1.
    """
    import torch

    clip, bias = state["conv_clip.weight"].flatten(1), state["conv_clip.bias"]
    if not torch.equal(clip, -torch.eye(len(clip))) or not torch.equal(bias, torch.ones(len(clip))):
        raise UserError(
            "its layer 'conv_clip' does more than clip to [0, 1]; only ETDS converted for inference is known"
        )
    channels = state["conv_first.weight"].shape[1]
    used = len(clip) - len(clip) % channels
    table: Table = [
        (r"conv_first\.", "head.0."), (r"backbone_convs\.(\d+)\.", r"body.\1.0."), (r"conv_(last|clip)\..*", DROP)
    ]  # fmt: skip
    tail = {"tail.weight": -state["conv_last.weight"][:used], "tail.bias": 1 - state["conv_last.bias"][:used]}
    return rename(state, table) | tail


HAESR_OFFICIAL: Table = [  # what is dropped are tables of indices
    (r".*\.ext_unfold\..*", DROP),
    (r"block0\.residual_layer\.0\.(.*)to_out\.0\.", r"block0.residual_layer.\1to_out."),
    (r"block0\.residual_layer\.0\.", "block0.residual_layer."),
    (r"(.*)to_out\.0\.", r"\1to_out."),
    (r"(.*)to_v\.", r"\1to_kv."),
]


def edsr_from_fakd(state: Mapping[str, Tensor]) -> State:
    """Rename EDSR of FAKD, whose body comes in three parts of blocks numbered anew."""
    sizes = [1 + max((int(n.split(".")[1]) for n in state if n.startswith(f"body{i}.")), default=-1) for i in (1, 2)]
    first = {1: 0, 2: sizes[0], 3: sum(sizes)}

    def whole(match: re.Match[str]) -> str:
        return f"body.{first[int(match[1])] + int(match[2])}."

    return rename(rename(state, [(r"body([123])\.(\d+)\.", whole)]), EDSR_OFFICIAL)


def rcan_from_fakd(state: Mapping[str, Tensor]) -> State:
    """Rename RCAN of FAKD."""
    return rename(rename(state, RCAN_FAKD), RCAN_OFFICIAL)


def idn_from_caffe(state: Mapping[str, Tensor]) -> State:
    """Rename IDN's Caffe blobs, numbered 0 (weight) and 1 (bias) or named so."""
    blobs = {re.sub(r"\.1$", ".bias", re.sub(r"\.0$", ".weight", name)): value for name, value in state.items()}
    return rename(blobs, IDN_CAFFE)


# ---------------------------------------------------------------------------------------------------- video networks

_LOSEAL_NAMES = {
    "sr.entry.body.0.": "fusion.conv.",
    "sr.conv.body.0.": "conv_up.",
    "sr.exit.body.0.": "conv_last.",
    "sr.body.": "body.",
    "mc.flownet.coarse_flow.": "motion.coarse.",
    "mc.flownet.fine_flow.": "motion.fine.",
}


def vespcn_from_loseal(state: Mapping[str, Tensor]) -> State:
    """Convert the residual VESPCN of LoSealL/VideoSuperResolution for ours with ``coarse_gain: 1``.

    There the center frame comes last in the first convolution's input; here frames are in order of time. The flow
    differs by (w-1)/w and (h-1)/h, see MotionCompensation.

    Args:
        state: names such as ``sr.entry.body.0.weight``, ``mc.flownet.coarse_flow.0.0.weight``; any number of frames,
            and of channels of a frame.
    """
    import torch

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
    frames = list(out["fusion.conv.weight"].split(out["conv_last.weight"].shape[0], 1))
    frames.insert(len(frames) // 2, frames.pop())
    out["fusion.conv.weight"] = torch.cat(frames, 1)
    return out


def vespcn_from_egvsr(state: Mapping[str, Tensor]) -> State:
    """Convert the VESPCN of Thmen/EGVSR, LoSealL's under shorter names: previous, next and current frame in this order.

    Args:
        state: names such as ``sr.entry.weight``, ``mc.coarse_flow.0.0.weight``.
    """
    longer: Table = [(r"sr\.(entry|conv|exit)\.", r"sr.\1.body.0."), (r"mc\.", "mc.flownet.")]
    return vespcn_from_loseal(rename(state, longer))


def vsrnet_from_usstdqq(state: Mapping[str, Tensor]) -> State:
    """Rename usstdqq/vsrnet_pytorch (symmetric sharing, 5 frames, Y) for ``VSRNet()``: conv1_f0 -> conv1.0."""
    return {name.replace("conv1_f", "conv1."): value for name, value in state.items()}


RSDN_OFFICIAL: Table = [
    (r"neuro\.SD(\d+)\.", lambda m: f"blocks.{int(m[1]) - 1}."),
    (r"neuro\.", ""),
    (r"conv\.", "conv_last."),
]
