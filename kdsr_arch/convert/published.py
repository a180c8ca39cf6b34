"""Where weights of public origin come from, what they look like, and how a file of them becomes this project's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kdsr_arch.convert import names
from kdsr_arch.convert.names import State, rename
from kdsr_arch.errors import UserError, nearest

if TYPE_CHECKING:  # as in names
    from torch import Tensor

Options = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """One origin of weights.

    Attributes:
        name: what ``kdsr convert`` calls it.
        origin: whose weights they are.
        arch: the registered network they are for.
        marks: patterns of names, each of which some entry of such a file matches from its beginning.
        convert: the file's entries to the network's.
        options: the network's options as far as the converted entries tell them.
        note: what they do not tell.
    """

    name: str
    origin: str
    arch: str
    marks: tuple[str, ...]
    convert: Callable[[Mapping[str, Tensor]], State]
    options: Callable[[State], Options]
    note: str = ""

    def matches(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a file of these entries looks like one of this source."""
        return all(any(re.match(mark, name) for name in state) for mark in self.marks)


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


def _table(table: names.Table) -> Callable[[Mapping[str, Tensor]], State]:
    return lambda state: rename(state, table)


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


def _sizes(state: State, last: str, block: str) -> Options:
    """The scale and width that the convolution before an RGB pixel-shuffle tells, and the number of blocks."""
    channels, width = state[last].shape[:2]
    return {"scale": round((channels / 3) ** 0.5), "num_feat": width, "num_block": _count(state, block)}


def imdn_options(state: State) -> Options:
    """Read IMDN's: scale, width and number of blocks, which are numbered from 1."""
    sizes = _sizes(state, "upsampler.0.weight", r"IMDB(\d+)\.")
    return {**sizes, "num_block": sizes["num_block"] - 1}


def smfanet_options(state: State) -> Options:
    """Read SMFANet's: scale, width and number of blocks."""
    return _sizes(state, "to_img.0.weight", r"feats\.(\d+)\.")


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
    return {**_sizes(state, "upsampler.0.weight", r"blocks\.(\d+)\."), "block": block}


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
    """Read VESPCN's: of the RGB network with motion compensation, or of the plain network on Y."""
    width = state["conv_up.weight"].shape[1]
    if "conv_last.weight" in state:  # with motion compensation, RGB
        count = _count(state, r"body\.(\d+)\.")
        return {"num_feat": width, "num_block": count, "scale": _shuffled_scale(state, "conv_up."), "coarse_gain": 1}
    scale = round(state["conv_up.weight"].shape[0] ** 0.5)
    return {"block": "plain", "num_feat": width, "num_hr_feat": 0, "num_block": 3, "color": "y", "motion": False,
            "scale": scale}  # fmt: skip


def vsrnet_options(state: State) -> Options:
    """Read VSRNet's: its defaults, or the window of the form with early fusion and without flow."""
    if "conv1.1.weight" in state:
        return {}
    return {"num_frame": state["conv1.0.weight"].shape[1], "fusion": "early", "flow": "none"}


ANY_SCALE = "the weights do not tell their scale: give the one they were trained for"
SOURCES = {
    source.name: source
    for source in (
        Source("carn", "CARN, nmhkahn/CARN-pytorch", "CARN", (r"b1\.b3\.body", r"c3\.body", "entry"), dict,
               carn_options),
        Source("carn-m", "CARN-M, nmhkahn/CARN-pytorch", "CARN_M", (r"b1\.b1\.body\.4", r"c3\.body", "entry"), dict,
               carn_options),
        Source("fsrcnn", "FSRCNN, yjn870/FSRCNN-pytorch", "FSRCNN", ("first_part", "mid_part", "last_part"),
               names.fsrcnn_from_yjn870, fsrcnn_options, ANY_SCALE),
        Source("vdsr", "VDSR, twtygqyy/pytorch-vdsr", "VDSR", (r"residual_layer\.0\.conv", "input", "output"), dict,
               vdsr_options, "one set of weights serves x2, x3 and x4"),
        Source("idn-caffe", "IDN, Zheng222/IDN-Caffe (blobs as npz)", "IDN", ("conv3_6", "down1", "upsample"),
               names.idn_from_caffe, idn_options, ANY_SCALE),
        Source("imdn", "IMDN, Zheng222/IMDN", "IMDN", (r"IMDB1\.cca", "LR_conv", "fea_conv"), dict, imdn_options),
        Source("smfanet", "SMFANet and SMFANet+, Zheng-MJ/SMFANet", "SMFANet", (r"feats\.0\.smfa\.belt", "to_img"),
               dict, smfanet_options),
        Source("ecbsr", "ECBSR folded, ECNUSR/ETDS", "PlainSR", (r"backbone\.0\.0\.weight", r"backbone\.0\.1\."),
               names.ecbsr_from_official, plainsr_options),
        Source("ecbsr-branches", "ECBSR in training form, BasicSR or xindongzhang/ECBSR", "PlainSR",
               (r"backbone\.0\.conv1x1_lpl\.k0", r"backbone\.0\.act\.weight"), names.ecbsr_from_official,
               plainsr_options, "the weights do not tell whether blocks add their input; taken as published, without"),
        Source("etds", "ETDS for inference, ECNUSR/ETDS", "PlainSR", ("conv_first", r"backbone_convs\.0", "conv_clip"),
               names.etds_from_official, plainsr_options),
        Source("span", "SPAN, hongyuanyu/SPAN or the NTIRE challenges", "SPAN", (r"block_1\.c1_r", "conv_cat"),
               names.span_from_official, span_options),
        Source("plainusr", "PlainUSR for inference, icandle/PlainUSR", "PlainUSR",
               (r"blockm\.body\.0", "head", r"tail\.0"), names.plainusr_from_official, plainusr_options),
        Source("rcan", "RCAN, yulunzhang/RCAN", "RCANTapped", (r"body\.0\.body\.0\.body\.3\.conv_du", r"tail\.1"),
               _table(names.RCAN_OFFICIAL), rcan_options),
        Source("rcan-fakd", "RCAN of FAKD", "RCANTapped", (r"body_group0\.body\.0", "body_tail"), names.rcan_from_fakd,
               rcan_options),
        Source("san", "SAN, daitao/SAN or FAKD's copy", "SAN", (r"RG\.0\.soca", r"non_local\.non_local"), dict,
               san_options),
        Source("edsr", "EDSR, the authors' names", "EDSRTapped", (r"head\.0", r"body\.0\.body\.0\.weight", r"tail\.1"),
               _table(names.EDSR_OFFICIAL), edsr_options),
        Source("edsr-fakd", "EDSR of FAKD", "EDSRTapped", (r"body1\.0\.body\.0", r"body3\.0"), names.edsr_from_fakd,
               edsr_options),
        Source("pisr-teacher", "PISR's teacher, cvlab-yonsei/PISR", "PISRTeacher", (r"backbone\.network\.encoder",),
               _table(names.PISR_TEACHER), pisr_teacher_options, ANY_SCALE),
        Source("pisr", "PISR's FSRCNN, cvlab-yonsei/PISR", "FSRCNN", (r"backbone\.network\.expanding",),
               _table(names.PISR_STUDENT), fsrcnn_options, ANY_SCALE),
        Source("edvr", "EDVR, xinntao/EDVR", "EDVR", (r"pcd_align\.L3_dcnpack", "recon_trunk", "HRconv"),
               _table(names.EDVR_OFFICIAL), edvr_options),
        Source("vespcn-loseal", "VESPCN, LoSealL/VideoSuperResolution", "VESPCN", (r"mc\.flownet", r"sr\.entry"),
               names.vespcn_from_loseal, vespcn_options),
        Source("vespcn-hwio", "VESPCN without motion, HighVoltageRocknRoll/sr", "VESPCN", (r"vespcn\.conv5\.kernel",),
               names.vespcn_from_hwio, vespcn_options),
        Source("vsrnet", "VSRNet, usstdqq/vsrnet_pytorch", "VSRNet", (r"conv1_f0\.", r"conv3\."),
               names.vsrnet_from_usstdqq, vsrnet_options, ANY_SCALE),
        Source("vsrnet-hwio", "VSRNet of 3 frames, HighVoltageRocknRoll/sr", "VSRNet", (r"vsrnet\.conv3\.kernel",),
               names.vsrnet_from_hwio, vsrnet_options, ANY_SCALE),
    )
}  # fmt: skip


def looks_like(state: Mapping[str, Tensor]) -> list[str]:
    """List the sources whose marks a file of these entries shows."""
    return [name for name, source in SOURCES.items() if source.matches(state)]


@dataclass(frozen=True)
class Converted:
    """Weights under this project's names.

    Attributes:
        source: where they come from.
        params: the state dict.
        network: the options of the network they fit ('type' and keywords), as far as they are known.
        scale: the enlargement; None where nobody has told it.
        mode: 'image', or 'window' or 'clip' for a network of video, as in its traits.
    """

    source: Source
    params: State
    network: dict[str, Any]
    scale: int | None
    mode: str


def convert_file(source: str, path: Path, scale: int | None = None) -> Converted:
    """Convert the weights of ``path``, which come from ``source``.

    Args:
        source: a key of ``SOURCES``.
        path: a file of torch.save or .safetensors of a state dict, or .npz of arrays.
        scale: the enlargement that they were trained for, where the weights do not tell it.

    Raises:
        UserError: an unknown source, an unreadable file, weights of another scale, or a file of something else; then
            the message says what it looks like and which entries differ.
    """
    from kdsr_arch.infer.open import read_weights

    if source not in SOURCES:
        raise UserError(f"unknown source '{source}'{nearest(source, SOURCES)}: use one of {', '.join(SOURCES)}")
    state = read_weights(path)
    try:
        return convert_state(SOURCES[source], state, scale)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def convert_state(source: Source, state: Mapping[str, Tensor], scale: int | None = None) -> Converted:
    """Convert entries in memory.

    Raises:
        UserError: they are not of this source, not whole, or of another scale.
    """
    from kdsr_arch.infer.open import misfits
    from kdsr_arch.infer.traits import traits_of
    from kdsr_arch.registry import build, keywords_of, lookup

    if not source.matches(state):
        lacking = [m.replace("\\", "") for m in source.marks if not any(re.match(m, name) for name in state)]
        raise UserError(f"is not {source.origin}: it has no entry '{lacking[0]}...'; {describe(state)}")
    params = source.convert(state)
    try:
        network = {"type": source.arch, **source.options(params)}
    except (KeyError, ZeroDivisionError, IndexError) as error:
        raise UserError(f"is not whole for {source.origin}: it lacks {error}; {describe(state)}") from None
    keywords = keywords_of(lookup("network", source.arch)).parameters
    open_scale = "scale" in keywords and "scale" not in network
    if open_scale and scale is not None:
        network["scale"] = scale
    net = build("network", network, "network")
    faults = misfits(net, params)
    if faults:
        raise UserError(f"does not fit {type(net).__name__} ({source.origin}): {'; '.join(faults)}")
    traits = traits_of(net)
    if scale not in (None, traits.scale):
        raise UserError(f"is of scale {traits.scale}, not {scale}")
    return Converted(source, params, network, scale if open_scale else traits.scale, traits.mode)


def option_text(done: Converted, weights: Path) -> str:
    """Write an option file that tests converted weights, and by which `kdsr upscale` knows their network.

    Args:
        done: what was converted; its scale is known.
        weights: the file that the weights go into.
    """
    kind, data = ("Video", "ClipDataset") if done.mode != "image" else ("Image", "ImagePairDataset")
    metric = {"crop_border": done.scale, "test_y_channel": True}
    options = {
        "name": weights.stem, "model_type": f"{kind}DistillModel", "scale": done.scale, "network_g": done.network,
        "path": {"pretrain_network_g": str(weights.resolve())},
        "datasets": {"test_1": {"name": "HR", "type": data, "dataroot_gt": "datasets/HR", "degradation": "BI"}},
        "val": {"metrics": {name: {"type": f"calculate_{name}", **metric} for name in ("psnr", "ssim")}},
        "needs": "Name the HR frames to test with: --force_yml datasets:test_1:dataroot_gt=FOLDER",
    }  # fmt: skip
    return f"# {done.source.origin}, converted: kdsr test -opt {weights.stem}.yml\n" + yaml.safe_dump(
        options, sort_keys=False, width=120
    )


def describe(state: Mapping[str, Tensor]) -> str:
    """Say what a file of these entries looks like."""
    sources = looks_like(state)
    if sources:
        return "it looks like " + " or ".join(f"'{name}' ({SOURCES[name].origin})" for name in sources)
    names = list(state)
    shown = ", ".join(f"{n} {tuple(state[n].shape)}" for n in names[:3])
    return f"it looks like none of the known sources: {len(names)} entries, the first are {shown}"
