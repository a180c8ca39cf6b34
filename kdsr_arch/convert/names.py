"""How the image networks' weights are named elsewhere, as tables of patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

State = dict[str, Tensor]
Table = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

DROP = ""
"""As a replacement for a whole name: the entry is left out (constants that our networks make themselves)."""

MEAN_SHIFT: Table = [(r"(sub|add)_mean\..*", DROP)]

# yulunzhang/RCAN; the last module of a group and of the body is a convolution, told from a block by what follows.
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

# xinntao/EDVR. Its tAtt_2 embeds the centre frame, as temporal_attn1 does here.
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
    """Each entry under the name that the first matching pattern gives it; names that match none stay."""
    renamed = {name: _rename_one(name, table) for name in state}
    return {renamed[name]: value for name, value in state.items() if renamed[name]}


def _rename_one(name: str, table: Table) -> str:
    for pattern, replacement in table:
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", replacement, name, count=1)
    return name


def fsrcnn_from_yjn870(state: Mapping[str, Tensor]) -> State:
    """FSRCNN of yjn870/FSRCNN-pytorch: ``mid_part`` is shrinking, mapping and expanding, layers and slopes in turn."""
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


def edsr_from_fakd(state: Mapping[str, Tensor]) -> State:
    """EDSR of FAKD, whose body comes in three parts of blocks numbered anew."""
    sizes = [1 + max((int(n.split(".")[1]) for n in state if n.startswith(f"body{i}.")), default=-1) for i in (1, 2)]
    first = {1: 0, 2: sizes[0], 3: sum(sizes)}

    def whole(match: re.Match[str]) -> str:
        return f"body.{first[int(match[1])] + int(match[2])}."

    return rename(rename(state, [(r"body([123])\.(\d+)\.", whole)]), EDSR_OFFICIAL)


def rcan_from_fakd(state: Mapping[str, Tensor]) -> State:
    """RCAN of FAKD."""
    return rename(rename(state, RCAN_FAKD), RCAN_OFFICIAL)


def idn_from_caffe(state: Mapping[str, Tensor]) -> State:
    """IDN's Caffe blobs, numbered 0 (weight) and 1 (bias) or named so."""
    blobs = {re.sub(r"\.1$", ".bias", re.sub(r"\.0$", ".weight", name)): value for name, value in state.items()}
    return rename(blobs, IDN_CAFFE)
