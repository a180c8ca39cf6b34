"""Where weights of public origin come from, what they look like, and how a file of them becomes this project's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kdsr_arch.convert import names, sizes, variables
from kdsr_arch.convert.names import State, rename
from kdsr_arch.convert.sizes import Options
from kdsr_arch.errors import UserError, nearest

if TYPE_CHECKING:  # as in names
    from torch import Tensor


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
        degradation: by which the LR frames were made that they were trained on.
    """

    name: str
    origin: str
    arch: str
    marks: tuple[str, ...]
    convert: Callable[[Mapping[str, Tensor]], State]
    options: Callable[[State], Options]
    note: str = ""
    degradation: str = "BI"

    def matches(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a file of these entries looks like one of this source."""
        return all(any(re.match(mark, name) for name in state) for mark in self.marks)


def _table(table: names.Table) -> Callable[[Mapping[str, Tensor]], State]:
    return lambda state: rename(state, table)


ANY_SCALE = "the weights do not tell their scale: give the one they were trained for"
SOURCES = {
    source.name: source
    for source in (
        Source("carn", "CARN, nmhkahn/CARN-pytorch", "CARN", (r"b1\.b3\.body", r"c3\.body", "entry"), dict,
               sizes.carn_options),
        Source("carn-m", "CARN-M, nmhkahn/CARN-pytorch", "CARN_M", (r"b1\.b1\.body\.4", r"c3\.body", "entry"), dict,
               sizes.carn_options),
        Source("fsrcnn", "FSRCNN, yjn870/FSRCNN-pytorch", "FSRCNN", ("first_part", "mid_part", "last_part"),
               names.fsrcnn_from_yjn870, sizes.fsrcnn_options, ANY_SCALE),
        Source("vdsr", "VDSR, twtygqyy/pytorch-vdsr", "VDSR", (r"residual_layer\.0\.conv", "input", "output"), dict,
               sizes.vdsr_options, "one set of weights serves x2, x3 and x4"),
        Source("idn-caffe", "IDN, Zheng222/IDN-Caffe (blobs as npz)", "IDN", ("conv3_6", "down1", "upsample"),
               names.idn_from_caffe, sizes.idn_options, ANY_SCALE),
        Source("imdn", "IMDN, Zheng222/IMDN", "IMDN", (r"IMDB1\.cca", "LR_conv", "fea_conv"), dict, sizes.imdn_options),
        Source("smfanet", "SMFANet and SMFANet+, Zheng-MJ/SMFANet", "SMFANet", (r"feats\.0\.smfa\.belt", "to_img"),
               dict, sizes.smfanet_options),
        Source("ecbsr", "ECBSR folded, ECNUSR/ETDS", "PlainSR", (r"backbone\.0\.0\.weight", r"backbone\.0\.1\."),
               names.ecbsr_from_official, sizes.plainsr_options),
        Source("ecbsr-branches", "ECBSR in training form, BasicSR or xindongzhang/ECBSR", "PlainSR",
               (r"backbone\.0\.conv1x1_lpl\.k0", r"backbone\.0\.act\.weight"), names.ecbsr_from_official,
               sizes.plainsr_options, "the weights do not tell whether blocks add their input: taken as if not"),
        Source("etds", "ETDS for inference, ECNUSR/ETDS", "PlainSR", ("conv_first", r"backbone_convs\.0", "conv_clip"),
               names.etds_from_official, sizes.plainsr_options),
        Source("span", "SPAN, hongyuanyu/SPAN or the NTIRE challenges", "SPAN", (r"block_1\.c1_r", "conv_cat"),
               names.span_from_official, sizes.span_options),
        Source("plainusr", "PlainUSR for inference, icandle/PlainUSR", "PlainUSR",
               (r"blockm\.body\.0", "head", r"tail\.0"), names.plainusr_from_official, sizes.plainusr_options),
        Source("haesr", "HAESR, Amazingren/NTIRE2026_ESR", "HAESR", (r"block0\.residual_layer\.0\.SLA1", "up"),
               _table(names.HAESR_OFFICIAL), sizes.haesr_options),
        Source("rcan", "RCAN, yulunzhang/RCAN", "RCANTapped", (r"body\.0\.body\.0\.body\.3\.conv_du", r"tail\.1"),
               _table(names.RCAN_OFFICIAL), sizes.rcan_options),
        Source("rcan-fakd", "RCAN of FAKD", "RCANTapped", (r"body_group0\.body\.0", "body_tail"), names.rcan_from_fakd,
               sizes.rcan_options),
        Source("san", "SAN, daitao/SAN or FAKD's copy", "SAN", (r"RG\.0\.soca", r"non_local\.non_local"), dict,
               sizes.san_options),
        Source("edsr", "EDSR, the authors' names", "EDSRTapped", (r"head\.0", r"body\.0\.body\.0\.weight", r"tail\.1"),
               _table(names.EDSR_OFFICIAL), sizes.edsr_options),
        Source("edsr-fakd", "EDSR of FAKD", "EDSRTapped", (r"body1\.0\.body\.0", r"body3\.0"), names.edsr_from_fakd,
               sizes.edsr_options),
        Source("pisr-teacher", "PISR's teacher, cvlab-yonsei/PISR", "PISRTeacher", (r"backbone\.network\.encoder",),
               _table(names.PISR_TEACHER), sizes.pisr_teacher_options, ANY_SCALE),
        Source("pisr", "PISR's FSRCNN, cvlab-yonsei/PISR", "FSRCNN", (r"backbone\.network\.expanding",),
               _table(names.PISR_STUDENT), sizes.fsrcnn_options, ANY_SCALE),
        Source("edvr", "EDVR, xinntao/EDVR", "EDVR", (r"pcd_align\.L3_dcnpack", "recon_trunk", "HRconv"),
               _table(names.EDVR_OFFICIAL), sizes.edvr_options),
        Source("vespcn-loseal", "VESPCN, LoSealL/VideoSuperResolution", "VESPCN", (r"mc\.flownet", r"sr\.entry"),
               names.vespcn_from_loseal, sizes.vespcn_options),
        Source("vespcn-egvsr", "VESPCN, Thmen/EGVSR", "VESPCN", (r"mc\.coarse_flow", r"sr\.entry\.weight"),
               names.vespcn_from_egvsr, sizes.vespcn_options),
        Source("vespcn-hwio", "VESPCN without motion, HighVoltageRocknRoll/sr", "VESPCN", (r"vespcn\.conv5\.kernel",),
               variables.vespcn_from_hwio, sizes.vespcn_options),
        Source("vsrnet", "VSRNet, usstdqq/vsrnet_pytorch", "VSRNet", (r"conv1_f0\.", r"conv3\."),
               names.vsrnet_from_usstdqq, sizes.vsrnet_options, ANY_SCALE),
        Source("vsrnet-hwio", "VSRNet of 3 frames, HighVoltageRocknRoll/sr", "VSRNet", (r"vsrnet\.conv3\.kernel",),
               variables.vsrnet_from_hwio, sizes.vsrnet_options, ANY_SCALE),
        Source("tdan", "TDAN, YapengTian/TDAN-VSR-CVPR-2020 (its state dict)", "TDAN",
               (r"off2d_1\.", r"deconv_2\.", r"recon_lr\."), dict, sizes.tdan_options),
        Source("rsdn", "RSDN, junpan19/RSDN", "RSDN", (r"neuro\.SD1\.conv_d1", r"neuro\.forget"),
               _table(names.RSDN_OFFICIAL), sizes.rsdn_options, degradation="BD"),
        Source("pfnl", "PFNL, psychopa4/PFNL (variables as npz)", "PFNL",
               (r"nlvsr[/.]nlblock_0", r"nlvsr[/.]convmerge2"), variables.pfnl_from_variables, sizes.pfnl_options,
               degradation="BD"),
        Source("drvsr", "DRVSR, psychopa4/PFNL's rebuild (variables as npz)", "DRVSR",
               (r"easyflow[/.]c1", r"srmodel[/.]convLSTM"), variables.drvsr_from_variables, sizes.drvsr_options,
               "the weights do not tell the window: taken as 3 frames", "BD"),
        Source("ltdvsr", "Liu 2017, psychopa4/PFNL's rebuild (variables as npz)", "LTDVSRRebuild",
               (r"ltdvsr[/.]tem0", r"flow[/.]conv0"), variables.ltdvsr_from_variables, sizes.ltdvsr_options,
               degradation="BD"),
    )
}  # fmt: skip


def own_part(state: Mapping[str, Tensor], sources: Iterable[Source]) -> Mapping[str, Tensor]:
    """The entries under one prefix where those, and not all, look like one of the sources; else all of them."""
    for prefix in ("", *dict.fromkeys(f"{name.partition('.')[0]}." for name in state)):
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if any(source.matches(part) for source in sources):
            return part
    return state


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

    def network_text(self) -> str:
        """Write the network's options in one line of YAML, with a scale that nobody told as '?'."""
        unknown = {"scale": "?"} if self.scale is None else {}
        text: str = yaml.safe_dump({**self.network, **unknown}, default_flow_style=True, sort_keys=False, width=10**6)
        return text.strip()


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
    state = own_part(read_weights(path), [SOURCES[source]])
    try:
        return convert_state(SOURCES[source], state, scale)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def convert_state(source: Source, state: Mapping[str, Tensor], scale: int | None = None) -> Converted:
    """Convert entries in memory.

    Raises:
        UserError: they are not of this source, not whole, or of another scale.
    """
    from kdsr_arch.infer.open import misfits, refuse_values
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
    own = net.state_dict()
    params = {name: params[name] for name in own}  # without the number of a step and the like
    refuse_values(own, params)
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
    video = done.mode != "image"
    kind, data = ("Video", "ClipDataset") if video else ("Image", "ImagePairDataset")
    metric = {"crop_border": 0 if video else done.scale, "test_y_channel": True}  # as papers on either measure
    hr = {"name": "HR", "type": data, "dataroot_gt": "datasets/HR", "degradation": done.source.degradation}
    options = {
        "name": weights.stem, "model_type": f"{kind}DistillModel", "scale": done.scale, "network_g": done.network,
        "path": {"pretrain_network_g": str(weights.resolve())},
        "datasets": {"test_1": hr},
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
