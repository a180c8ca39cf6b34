"""The options of a network as far as its converted entries tell them: scale, widths, numbers of blocks."""

from __future__ import annotations

import re
from typing import Any

from kdsr_arch.convert.names import State

Options = dict[str, Any]


def _count(state: State, pattern: str) -> int:
    """One more than the largest number that the pattern's group finds among the names."""
    numbers = [int(m[1]) for m in (re.match(pattern, name) for name in state) if m]
    return max(numbers, default=-1) + 1


def _shuffled_scale(state: State, prefix: str) -> int:
    """The enlargement of convolutions followed by pixel-shuffles under ``prefix``."""
    scale = 1
    for name, value in state.items():
        if name.startswith(prefix) and name.endswith("weight"):
            scale *= round((value.shape[0] / value.shape[1]) ** 0.5)
    return scale


def carn_options(state: State) -> Options:
    """Read the options of CARN or CARN-M from its entries: scale (or all three), width, groups."""
    multi = any(name.startswith("upsample.up2") for name in state)
    width = state["entry.weight"].shape[0]
    group = width // state["b1.b1.body.0.weight"].shape[1]
    options: Options = {"multi_scale": multi, "num_feat": width, "group": group}
    if not multi:
        first = state["upsample.up.body.0.weight"]
        scale = round((first.shape[0] / width) ** 0.5)
        options["scale"] = scale ** (2 if "upsample.up.body.3.weight" in state else 1)
    return options


def fsrcnn_options(state: State) -> Options:
    """Read FSRCNN's: channels, d, s and m of the paper, and the form of the PReLU; nothing tells the scale."""
    d, channels = state["feature_extraction.0.0.weight"].shape[:2]
    return {
        "num_in_ch": channels,
        "d": d,
        "s": state["shrinking.0.0.weight"].shape[0],
        "m": _count(state, r"mapping\.(\d+)\."),
        "prelu": "channel" if state["feature_extraction.0.1.weight"].numel() > 1 else "single",
    }


def vdsr_options(state: State) -> Options:
    """Read VDSR's: channels, width, number of layers, whether they have a bias."""
    width, channels = state["input.weight"].shape[:2]
    layers = _count(state, r"residual_layer\.(\d+)\.") + 2
    return {"num_in_ch": channels, "num_feat": width, "num_layer": layers, "bias": "input.bias" in state}


def idn_options(state: State) -> Options:
    """Read IDN's in its Y form: width and number of blocks; nothing tells the scale."""
    return {"form": "y", "num_feat": state["conv1.weight"].shape[0], "num_block": _count(state, r"blocks\.(\d+)\.")}


def _sizes(state: State, last: str) -> Options:
    """The scale and width that the convolution before an RGB pixel-shuffle tells."""
    channels, width = state[last].shape[:2]
    return {"scale": round((channels / 3) ** 0.5), "num_feat": width}


def imdn_options(state: State) -> Options:
    """Read IMDN's: scale, width and number of blocks."""
    return {**_sizes(state, "upsampler.0.weight"), "num_block": _count(state, r"IMDB(\d+)\.") - 1}


def smfanet_options(state: State) -> Options:
    """Read SMFANet's: scale, width and number of blocks."""
    return {**_sizes(state, "to_img.0.weight"), "num_block": _count(state, r"feats\.(\d+)\.")}


def haesr_options(state: State) -> Options:
    """Read HAESR's: scale and width."""
    return _sizes(state, "up.0.weight")


def plainsr_options(state: State) -> Options:
    """Read PlainSR's of an ECBSR (folded or not) or of an ETDS: scale, channels, width, number of blocks."""
    block = "ecb" if "tail.edge" in state else "plain"
    form = {"act": "prelu", "residual": "repeat"} if "head.1.weight" in state else {"act": "relu", "residual": "none"}
    width, channels = state["head.0.weight"].shape[:2]
    scale = round((state["tail.bias"].shape[0] / channels) ** 0.5)
    sizes = {"scale": scale, "num_in_ch": channels, "num_feat": width, "num_block": _count(state, r"body\.(\d+)\.")}
    return {**sizes, "block": block, **form}


def plainusr_options(state: State) -> Options:
    """Read PlainUSR's: scale, the blocks' widths, and where it has attention, of how many channels."""
    count = _count(state, r"blocks\.(\d+)\.")
    widths = [state[f"blocks.{i}.0.weight"].shape[0] for i in range((count + 1) // 2)]
    attention = state.get("blocks.0.3.body.0.weight")
    form = {"attention": "middle"} if attention is None else {"num_attention_feat": attention.shape[0]}
    return {"scale": round((state["tail.0.weight"].shape[0] / 3) ** 0.5), "widths": widths, **form}


def span_options(state: State) -> Options:
    """Read SPAN's: scale, width, number of blocks, and whether it is folded."""
    block = "conv3xc" if "conv_1.skip" in state else "plain"
    return {**_sizes(state, "upsampler.0.weight"), "num_block": _count(state, r"blocks\.(\d+)\."), "block": block}


def rcan_options(state: State) -> Options:
    """Read RCAN's: width, groups, blocks in each, squeeze factor and scale."""
    width = state["conv_first.weight"].shape[0]
    squeezed = state["body.0.residual_group.0.rcab.3.attention.1.weight"].shape[0]
    return {
        "num_feat": width,
        "num_group": _count(state, r"body\.(\d+)\."),
        "num_block": _count(state, r"body\.0\.residual_group\.(\d+)\."),
        "squeeze_factor": width // squeezed,
        "upscale": _shuffled_scale(state, "upsample."),
    }


def edsr_options(state: State) -> Options:
    """Read EDSR's: width, number of blocks and scale; the authors' network of 256 channels scales its residuals."""
    width = state["conv_first.weight"].shape[0]
    size = {"num_feat": width, "num_block": _count(state, r"body\.(\d+)\.")}
    return {**size, "res_scale": 0.1 if width == 256 else 1, "upscale": _shuffled_scale(state, "upsample.")}


def san_options(state: State) -> Options:
    """Read SAN's: scale, groups, blocks in each, width and both reductions."""
    width = state["head.0.weight"].shape[0]
    return {
        "scale": _shuffled_scale(state, "tail.0."),
        "num_group": _count(state, r"RG\.(\d+)\."),
        "num_block": _count(state, r"RG\.0\.rcab\.(\d+)\."),
        "num_feat": width,
        "reduction": width // state["RG.0.soca.conv_du.0.weight"].shape[0],
        "nonlocal_reduction": width // state["non_local.non_local.theta.weight"].shape[0],
    }


def pisr_teacher_options(state: State) -> Options:
    """Read those of PISR's teacher: its decoder, an FSRCNN."""
    decoder = {name.removeprefix("decoder."): value for name, value in state.items() if name.startswith("decoder.")}
    return {"decoder": {"type": "FSRCNN", **fsrcnn_options(decoder)}}


def edvr_options(state: State) -> Options:
    """Read EDVR's: width, window, deformable groups, depths, and whether it has predeblurring and TSA."""
    width = state["feature_extraction.0.conv1.weight"].shape[0]
    fusion = state.get("fusion.feat_fusion.weight")
    fusion = state["fusion.weight"] if fusion is None else fusion
    return {
        "num_feat": width,
        "num_frame": fusion.shape[1] // width,
        "deformable_groups": state["pcd_align.cas_dcnpack.conv_offset.weight"].shape[0] // 27,
        "num_extract_block": _count(state, r"feature_extraction\.(\d+)\."),
        "num_reconstruct_block": _count(state, r"reconstruction\.(\d+)\."),
        "hr_in": "predeblur.stride_conv_hr1.weight" in state,
        "with_predeblur": "predeblur.conv_first.weight" in state,
        "with_tsa": "fusion.feat_fusion.weight" in state,
    }


def vespcn_options(state: State) -> Options:
    """Read VESPCN's: of the network with motion compensation, or of the plain network on Y."""
    width = state["conv_up.weight"].shape[1]
    if "conv_last.weight" in state:  # with motion compensation
        channels = state["conv_last.weight"].shape[0]
        return {
            "scale": _shuffled_scale(state, "conv_up."), "num_frame": state["fusion.conv.weight"].shape[1] // channels,
            "num_feat": width, "num_block": _count(state, r"body\.(\d+)\."), "color": "rgb" if channels == 3 else "y",
            "coarse_gain": 1,
        }  # fmt: skip
    scale = round(state["conv_up.weight"].shape[0] ** 0.5)
    return {"block": "plain", "num_feat": width, "num_hr_feat": 0, "num_block": 3, "color": "y", "motion": False,
            "scale": scale}  # fmt: skip


def vsrnet_options(state: State) -> Options:
    """Read VSRNet's: its defaults, or the window of the form with early fusion and without flow."""
    if "conv1.1.weight" in state:
        return {}
    return {"num_frame": state["conv1.0.weight"].shape[1], "fusion": "early", "flow": "none"}


def tdan_options(state: State) -> Options:
    """Read TDAN's: window, width, depths and deformable groups."""
    joined = state["fea_ex.0.weight"]
    return {
        "num_frame": joined.shape[1] // 3,
        "num_feat": joined.shape[0],
        "num_extract_block": _count(state, r"residual_layer\.(\d+)\."),
        "num_block": _count(state, r"recon_layer\.(\d+)\."),
        "deformable_groups": state["off2d.weight"].shape[0] // 18,
    }


def rsdn_options(state: State) -> Options:
    """Read RSDN's: width and number of blocks."""
    return {"num_feat": state["conv_hd.weight"].shape[0], "num_block": _count(state, r"blocks\.(\d+)\.")}


def pfnl_options(state: State) -> Options:
    """Read PFNL's: window, widths and number of blocks."""
    return {
        "num_frame": state["non_local.value.weight"].shape[0] // 12,
        "num_feat": state["conv_first.weight"].shape[0],
        "num_block": _count(state, r"blocks\.(\d+)\."),
        "num_hr_feat": state["conv_last.weight"].shape[1],
    }


def drvsr_options(state: State) -> Options:
    """Read DRVSR's widths; nothing tells the window, which is taken as the published one."""
    return {
        "num_frame": 3,
        "num_feat": state["conv_last.weight"].shape[1],
        "num_flow_feat": state["motion.coarse.0.weight"].shape[0],
    }


def ltdvsr_options(state: State) -> Options:
    """Read the widths of the rebuilt temporal adaptive network."""
    return {
        "num_feat": state["branches.0.0.weight"].shape[0],
        "num_flow_feat": state["motion.conv0.weight"].shape[0],
    }
