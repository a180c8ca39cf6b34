"""What the rest of the project must know about a network to run it and to tap it.

A network of this project declares ``self.traits``; a table describes BasicSR's networks, which do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import UserError

MODES = ("image", "window", "recurrent")
_KNOWN = {"mode": MODES, "color": ("rgb", "y"), "input": ("lq", "gt", "both")}
_SPYNET_SIDE = 33  # BasicSR's SpyNet rounds sides up to a multiple of 32 and fails where that is 32


@dataclass(frozen=True)
class Traits:
    """How a network is called.

    Attributes:
        mode: 'image' (B, C, h, w) -> (B, C, H, W); 'window' (B, n, C, h, w) -> (B, C, H, W), the center frame;
            'recurrent' (B, T, C, h, w) -> (B, T, C, H, W).
        scale: H / h.
        num_frame: window length n (odd); 1 outside mode 'window'.
        color: 'rgb' or 'y' (BT.601 luma, studio range, divided by 255).
        upsampled_input: the network takes frames already enlarged to HR size by MATLAB's bicubic.
        multiple: height and width given to the network (after that enlargement, if any) must be multiples of it.
        taps: aliases for module paths. 'f_sr': feature at HR size before the last convolution; 'f_lr': feature at LR
            size before upsampling (in networks that work on enlarged frames: their first feature of all frames).
        min_size: smallest height and width the network takes.
        min_clip: fewest frames a recurrent network takes.
        input: 'lq', or 'gt' for a privileged network, which is given the ground truth in place of the LR image; its
            output has the size of its input. 'both' for one that is given both, see `given`.
        half: it computes in float16 as well; where it cannot, nobody chooses that for it.
    """

    mode: str
    scale: int
    num_frame: int = 1
    color: str = "rgb"
    upsampled_input: bool = False
    multiple: int = 1
    taps: Mapping[str, str] = field(default_factory=dict)
    min_size: int = 1
    min_clip: int = 1
    input: str = "lq"
    half: bool = True

    def __post_init__(self) -> None:
        for key, known in _KNOWN.items():
            if getattr(self, key) not in known:
                raise ValueError(f"{key} must be one of {known}, got '{getattr(self, key)}'")
        if not isinstance(self.scale, Integral) or self.scale < 1:
            raise ValueError(f"scale {self.scale}: must be a whole number, 1 or more")
        if self.num_frame % 2 == 0 or (self.mode != "window" and self.num_frame != 1):
            raise ValueError(f"num_frame {self.num_frame} does not fit mode {self.mode}: windows are odd, others 1")

    @property
    def enlargement(self) -> int:
        """Output size over the size of what the network is given."""
        return 1 if self.input == "gt" else self.scale

    def given(self, lq: Tensor, gt: Tensor) -> Tensor:
        """Return what the network is given of LR images (..., C, h, w) and ground truth (..., C, scale h, scale w).

        Both are one tensor of the LR size: the LR image's channels, then those of the unshuffled ground truth.
        """
        if self.input == "both":
            return torch.cat([lq, F.pixel_unshuffle(gt, self.scale)], -3)
        return gt if self.input == "gt" else lq

    @property
    def lr_multiple(self) -> int:
        """What LR heights and widths must be multiples of."""
        return self.multiple // math.gcd(self.multiple, self.scale) if self.upsampled_input else self.multiple

    @property
    def lr_minimum(self) -> int:
        """Smallest LR height and width."""
        return -(-self.min_size // self.scale) if self.upsampled_input else self.min_size

    def lr_side(self, side: int) -> int:
        """Round an LR height or width up to one that the network takes."""
        return -(-max(side, self.lr_minimum) // self.lr_multiple) * self.lr_multiple


class ScaleUnknown(UserError):
    """A network does not tell by how much it enlarges, and nobody else did."""


def traits_of(net: nn.Module, scale: int | None = None) -> Traits:
    """Return the traits of ``net``: its own, those of BasicSR's table, or those of a plain image network.

    Args:
        net: a network, bare or wrapped (DataParallel, DDP, torch.compile).
        scale: the experiment's scale; needed where the network does not fix its own.

    Raises:
        UserError: the network works at another scale than ``scale``, or that is no scale.
        ScaleUnknown: no scale is known.
    """
    if scale is not None and (not isinstance(scale, Integral) or isinstance(scale, bool) or scale < 1):
        raise UserError(f"scale: must be a whole number, 1 or more, not {scale!r}")
    net = unwrap(net)
    traits = getattr(net, "traits", None)
    if not isinstance(traits, Traits):
        names = (cls.__name__ for cls in type(net).__mro__ if cls.__module__.startswith("basicsr."))
        traits = next((_TABLE[name] for name in names if name in _TABLE), _image)(net, scale)
    if scale is not None and traits.scale != scale:
        raise UserError(
            f"network {type(net).__name__} enlarges by {traits.scale}, but the experiment's scale is "
            f"{scale}: use the same scale for teacher, student and option file"
        )
    return traits


def unwrap(net: nn.Module) -> nn.Module:
    """Return the network inside DataParallel, DistributedDataParallel or torch.compile wrappers."""
    while True:
        inner = getattr(net, "_orig_mod", None)
        if inner is None and isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = net.module
        if inner is None:
            return net
        net = inner


# ------------------------------------------------------------------------------------------------ BasicSR's networks


def _image(net: nn.Module, scale: int | None, **taps: str) -> Traits:
    """Any network of single images, as far as its modules tell."""
    own = next((n for n in (getattr(net, name, None) for name in ("scale", "upscale")) if isinstance(n, int)), None)
    upsample = getattr(net, "upsample", None)
    if own is None and isinstance(upsample, nn.Module):
        own = math.prod(part.upscale_factor for part in upsample.modules() if isinstance(part, nn.PixelShuffle))
    factor = scale if own is None else own
    if factor is None:
        raise ScaleUnknown(
            f"the scale of network {type(net).__name__} is not known: give it a `traits` attribute, or name the scale "
            "(`scale` in an option file, --scale, scale= in Python)"
        )
    paths = dict(net.named_modules())
    present = {alias: path for alias, path in taps.items() if path in paths}
    return Traits("image", factor, color=_color_of(net), taps=present)


def _color_of(net: nn.Module) -> str:
    first = next((m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))), None)
    return "y" if first is not None and first.in_channels == 1 else "rgb"


def _edvr(net: Any, scale: int | None) -> Traits:
    fusion = net.fusion.feat_fusion if net.with_tsa else net.fusion
    num_frame, taps = fusion.in_channels // net.conv_l2_1.in_channels, {"f_sr": "conv_hr", "f_lr": "reconstruction"}
    return Traits("window", 1 if net.hr_in else 4, num_frame, multiple=16 if net.hr_in else 4, taps=taps)


def _toflow(net: Any, scale: int | None) -> Traits:
    taps = {"f_sr": "conv_3", "f_lr": "conv_1"}
    return Traits("window", scale or 4, 7, upsampled_input=True, multiple=16, taps=taps)


def _basicvsr(net: Any, scale: int | None) -> Traits:
    return Traits("recurrent", 4, taps={"f_sr": "conv_hr", "f_lr": "fusion"}, min_size=_SPYNET_SIDE, min_clip=2)


def _iconvsr(net: Any, scale: int | None) -> Traits:
    taps = {"f_sr": "conv_hr", "f_lr": "forward_trunk"}
    min_clip = 2 * net.temporal_padding + 1  # its ends are mirrored over that many frames
    return Traits("recurrent", 4, multiple=4, taps=taps, min_size=_SPYNET_SIDE, min_clip=min_clip)


def _basicvsrpp(net: Any, scale: int | None) -> Traits:
    factor, multiple, min_size = (4, 1, 64) if net.is_low_res_input else (1, 4, 256)
    taps = {"f_sr": "conv_hr", "f_lr": "reconstruction"}
    return Traits("recurrent", factor, multiple=multiple, taps=taps, min_size=min_size, min_clip=2)


def _swinir(net: Any, scale: int | None) -> Traits:
    window = max(m.window_size for m in net.modules() if type(m).__name__ == "SwinTransformerBlock")
    features = {"pixelshuffle": "upsample", "nearest+conv": "conv_hr"}
    taps = {"f_lr": "conv_after_body"}
    if net.upsampler in features:
        taps["f_sr"] = features[net.upsampler]
    return Traits("image", net.upscale, color=_color_of(net), multiple=window, taps=taps)


def _rrdbnet(net: Any, scale: int | None) -> Traits:
    color = "y" if net.conv_last.out_channels == 1 else "rgb"
    multiple = {2: 2, 1: 4}.get(net.scale, 1)  # it begins with a pixel-unshuffle below x4
    return Traits("image", net.scale, color=color, multiple=multiple, taps={"f_sr": "conv_hr", "f_lr": "conv_body"})


def _sub_pixel(net: Any, scale: int | None) -> Traits:
    return _image(net, scale, f_sr="upsample", f_lr="conv_after_body")


def _last_layer_shuffle(net: Any, scale: int | None) -> Traits:
    # These shuffle the image itself: no feature map of HR size exists.
    body = "body" if hasattr(net, "body") else "backbone"
    last = len(net.get_submodule(body)) - 2
    return _image(net, scale, f_lr=f"{body}.{last}")


_TABLE: dict[str, Callable[[Any, int | None], Traits]] = {
    "EDVR": _edvr,
    "DUF": lambda net, scale: Traits("window", net.scale, 7),
    "TOFlow": _toflow,
    "BasicVSR": _basicvsr,
    "IconVSR": _iconvsr,
    "BasicVSRPlusPlus": _basicvsrpp,
    "RCAN": _sub_pixel,
    "EDSR": _sub_pixel,
    "MSRResNet": lambda net, scale: _image(net, scale, f_sr="conv_hr", f_lr="body"),
    "RRDBNet": _rrdbnet,
    "SwinIR": _swinir,
    "SRVGGNetCompact": _last_layer_shuffle,
    "ECBSR": _last_layer_shuffle,
    "RIDNet": lambda net, scale: Traits("image", 1, taps={"f_lr": "body", "f_sr": "body"}),
}
