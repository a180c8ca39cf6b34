"""What the rest of the project must know about a network to run it and to tap it.

A network of this project declares ``self.traits``; a table describes BasicSR's networks, which cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from kdsr_arch.errors import UserError
from kdsr_arch.infer.basicsr_traits import described

MODES = ("image", "window", "recurrent")


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
            output has the size of its input.
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

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got '{self.mode}'")
        if self.num_frame % 2 == 0 or (self.mode != "window" and self.num_frame != 1):
            raise ValueError(f"num_frame {self.num_frame} does not fit mode {self.mode}: windows are odd, others 1")

    @property
    def enlargement(self) -> int:
        """Output size over the size of what the network is given."""
        return 1 if self.input == "gt" else self.scale

    @property
    def lr_multiple(self) -> int:
        """What LR heights and widths must be multiples of."""
        return self.multiple // math.gcd(self.multiple, self.scale) if self.upsampled_input else self.multiple

    @property
    def lr_minimum(self) -> int:
        """Smallest LR height and width."""
        return -(-self.min_size // self.scale) if self.upsampled_input else self.min_size


def traits_of(net: nn.Module, scale: int | None = None) -> Traits:
    """Return the traits of ``net``: its own, those of BasicSR's table, or those of a plain image network.

    Args:
        net: a network, bare or wrapped (DataParallel, DDP, torch.compile).
        scale: the experiment's scale; needed where the network does not fix its own.

    Raises:
        UserError: the network works at another scale than ``scale``, or no scale is known.
    """
    net = unwrap(net)
    own = getattr(net, "traits", None)
    traits = own if isinstance(own, Traits) else Traits(**described(net, scale))
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
