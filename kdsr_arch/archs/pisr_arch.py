"""PISR's privileged teacher: an encoder of the HR image in front of the student's own architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdsr_arch import registry
from kdsr_arch.errors import UserError
from kdsr_arch.infer.traits import Traits, traits_of
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class PISRTeacher(nn.Module):
    """Teacher that sees the HR image: ``decoder(encoder(HR))`` (Lee et al., ECCV 2020), 98,728 parameters with FSRCNN.

    The decoder is any registered network that restores single images; its weights, under ``decoder.``, start the
    student of stage 2. Declares ``traits.input = 'gt'``: it is given the ground truth wherever others are given the
    LR image. Taps: 'encoder' (the learned LR image, which the imitation loss compares with the true one), and those of
    the decoder.

    Args:
        decoder: options of the decoder ('type' and keywords); its scale is filled in.
        scale: enlargement of the decoder, and reduction of the encoder.
        wide, narrow: widths of the encoder; published 56 and 12.
    """

    def __init__(self, decoder: Mapping[str, Any], scale: int = 4, wide: int = 56, narrow: int = 12) -> None:
        super().__init__()
        if not isinstance(decoder, Mapping) or "type" not in decoder:
            raise UserError("PISRTeacher: decoder must name a network: decoder: {type: FSRCNN, ...}")
        by_either_name = {"scale": scale, "upscale": scale}
        net = registry.build("network", decoder, "PISRTeacher: decoder", offer=by_either_name)
        inner = traits_of(net, scale)
        if inner.mode != "image":
            raise UserError(f"PISRTeacher: decoder {type(net).__name__} restores clips; it must restore single images")
        self.upsampled_input = inner.upsampled_input
        channels = 1 if inner.color == "y" else 3
        self.encoder = nn.Sequential(nn.Sequential(  # the published parameter names; 86,084 parameters with one channel
            nn.Conv2d(channels, wide, 5, 1, 2), nn.PReLU(),
            nn.Conv2d(wide, wide, 5, scale, 2), nn.PReLU(),
            nn.Conv2d(wide, narrow, 3, 1, 1), nn.PReLU(),
            nn.Conv2d(narrow, channels, 3, 1, 1),
        ))  # fmt: skip
        self.decoder = net
        taps = {"encoder": "encoder", **{alias: f"decoder.{path}" for alias, path in inner.taps.items()}}
        multiple = scale * (1 if inner.upsampled_input else inner.multiple)
        self.traits = Traits("image", scale, color=inner.color, multiple=multiple, taps=taps, input="gt")

    def forward(self, x: Tensor) -> Tensor:
        """Restore an HR image (N, C, scale h, scale w) in [0, 1] from the LR image that the encoder makes of it."""
        lr = self.encoder(x)
        return self.decoder(upsample_bicubic(lr, self.traits.scale) if self.upsampled_input else lr)
