"""The traits of BasicSR's networks, and what can be told of any other network from its modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from kdsr_arch.errors import UserError

_SPYNET_SIDE = 33  # BasicSR's SpyNet rounds sides up to a multiple of 32 and fails where that is 32

Keywords = dict[str, Any]


def described(net: nn.Module, scale: int | None) -> Keywords:
    """Describe a network that does not describe itself: the keywords of its Traits.

    Args:
        net: one of BasicSR's networks or of their subclasses, or any network of single images.
        scale: the experiment's; needed where the network does not fix its own.

    Raises:
        UserError: no scale is known.
    """
    for cls in type(net).__mro__:
        if cls.__name__ in _TABLE and cls.__module__.startswith("basicsr."):
            return _TABLE[cls.__name__](net, scale)
    return _image(net, scale)


def _image(net: nn.Module, scale: int | None, **taps: str) -> Keywords:
    own = next((n for n in (getattr(net, name, None) for name in ("scale", "upscale")) if isinstance(n, int)), None)
    upsample = getattr(net, "upsample", None)
    if own is None and isinstance(upsample, nn.Module):
        own = math.prod(part.upscale_factor for part in upsample.modules() if isinstance(part, nn.PixelShuffle))
    if own is None and scale is None:
        raise UserError(
            f"the scale of network {type(net).__name__} is not known: give it a `traits` attribute, "
            "or set `scale` in the option file"
        )
    paths = dict(net.named_modules())
    return {
        "mode": "image",
        "scale": scale if own is None else own,
        "color": _color_of(net),
        "taps": {alias: path for alias, path in taps.items() if path in paths},
    }


def _color_of(net: nn.Module) -> str:
    first = next((m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))), None)
    return "y" if first is not None and first.in_channels == 1 else "rgb"


def _edvr(net: Any, scale: int | None) -> Keywords:
    fusion = net.fusion.feat_fusion if net.with_tsa else net.fusion
    hr_in = bool(net.hr_in)
    return {
        "mode": "window",
        "scale": 1 if hr_in else 4,
        "num_frame": fusion.in_channels // net.conv_l2_1.in_channels,
        "multiple": 16 if hr_in else 4,
        "taps": {"f_sr": "conv_hr", "f_lr": "reconstruction"},
    }


def _toflow(net: Any, scale: int | None) -> Keywords:
    return {
        "mode": "window",
        "scale": scale or 4,
        "num_frame": 7,
        "upsampled_input": True,
        "multiple": 16,
        "taps": {"f_sr": "conv_3", "f_lr": "conv_1"},
    }


def _basicvsr(net: Any, scale: int | None) -> Keywords:
    taps = {"f_sr": "conv_hr", "f_lr": "fusion"}
    return {"mode": "recurrent", "scale": 4, "taps": taps, "min_size": _SPYNET_SIDE, "min_clip": 2}


def _iconvsr(net: Any, scale: int | None) -> Keywords:
    return {
        "mode": "recurrent",
        "scale": 4,
        "multiple": 4,
        "taps": {"f_sr": "conv_hr", "f_lr": "forward_trunk"},
        "min_size": _SPYNET_SIDE,
        "min_clip": 2 * net.temporal_padding + 1,  # its ends are mirrored over that many frames
    }


def _basicvsrpp(net: Any, scale: int | None) -> Keywords:
    lr_input = bool(net.is_low_res_input)
    return {
        "mode": "recurrent",
        "scale": 4 if lr_input else 1,
        "multiple": 1 if lr_input else 4,
        "min_size": 64 if lr_input else 256,
        "min_clip": 2,
        "taps": {"f_sr": "conv_hr", "f_lr": "reconstruction"},
    }


def _swinir(net: Any, scale: int | None) -> Keywords:
    window = max(m.window_size for m in net.modules() if type(m).__name__ == "SwinTransformerBlock")
    features = {"pixelshuffle": "upsample", "nearest+conv": "conv_hr"}
    taps = {"f_lr": "conv_after_body"}
    if net.upsampler in features:
        taps["f_sr"] = features[net.upsampler]
    return {"mode": "image", "scale": net.upscale, "color": _color_of(net), "multiple": window, "taps": taps}


def _rrdbnet(net: Any, scale: int | None) -> Keywords:
    return {
        "mode": "image",
        "scale": net.scale,
        "color": "y" if net.conv_last.out_channels == 1 else "rgb",
        "multiple": {2: 2, 1: 4}.get(net.scale, 1),  # it begins with a pixel-unshuffle below x4
        "taps": {"f_sr": "conv_hr", "f_lr": "conv_body"},
    }


def _sub_pixel(net: Any, scale: int | None) -> Keywords:
    return _image(net, scale, f_sr="upsample", f_lr="conv_after_body")


def _last_layer_shuffle(net: Any, scale: int | None) -> Keywords:
    # These shuffle the image itself: no feature map of HR size exists.
    body = "body" if hasattr(net, "body") else "backbone"
    last = len(net.get_submodule(body)) - 2
    return _image(net, scale, f_lr=f"{body}.{last}")


_TABLE: dict[str, Callable[[Any, int | None], Keywords]] = {
    "EDVR": _edvr,
    "DUF": lambda net, scale: {"mode": "window", "scale": net.scale, "num_frame": 7},
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
    "RIDNet": lambda net, scale: {"mode": "image", "scale": 1, "taps": {"f_lr": "body", "f_sr": "body"}},
}
