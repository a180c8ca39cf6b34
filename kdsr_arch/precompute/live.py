"""The teacher as a store is filled from it: whole images or crops in, output and taps on the CPU out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.data.store.teacher_store import OUTPUT
from kdsr_arch.device import autocast, pick_device
from kdsr_arch.distill.taps import Recorder, resolve
from kdsr_arch.errors import UserError
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.ops.color import rgb_to_y
from kdsr_arch.options.schema import Options


class LiveTeacher:
    """The teacher on whole images or crops of them: its output in its own color, and its taps, each (C, H, W).

    Args:
        net: the teacher.
        opt: options; read are `scale`, `num_gpu` and `teacher.amp`.
        taps: names of taps.

    Attributes:
        zoom: size of what it is given, relative to the LR image: 1, or the scale where it is given the ground truth.
    """

    def __init__(self, net: nn.Module, opt: Options, taps: Sequence[str]) -> None:
        self.device = pick_device(opt.num_gpu)
        self.traits = traits_of(net, opt.scale)
        if self.traits.mode == "recurrent":
            raise UserError(
                "cache-teacher: what a recurrent teacher makes of a frame depends on the whole clip of the "
                "sample it is in; only teachers of images or of windows of frames can be stored"
            )
        self.zoom = self.traits.scale if self.traits.input == "gt" else 1
        self.net = net.eval().requires_grad_(False).to(self.device)
        self.aliases = {name: resolve(net, self.traits, name) for name in taps}
        self.runner, self.amp = Runner(net, self.traits), opt.teacher.amp
        self.ratios: dict[str, int] = {}

    @torch.no_grad()
    def __call__(self, given: Tensor) -> dict[str, Tensor]:
        """What it makes of the middle one of (n, C, h, w) frames, n = 1 for a teacher of images; of an HR image where
        it is privileged.
        """
        given = given.to(self.device)
        height, width = (side // self.zoom for side in given.shape[-2:])
        given = rgb_to_y(given) if self.traits.color == "y" and given.shape[1] == 3 else given
        recorder = Recorder(self.net, list(self.aliases.values()))
        with autocast(self.device, self.amp), recorder as taps:
            made = {OUTPUT: self.runner.restore(given) if len(given) == 1 else self.runner.restore(given[None], 1)[0]}
        unit, least = self.traits.lr_multiple, self.traits.lr_minimum
        padded = tuple(-(-max(side, least) // unit) * unit // self.zoom for side in given.shape[-2:])
        for path in taps:
            made[path] = self._cut(path, taps[path], (height, width), padded)
        self.ratios[OUTPUT] = self.traits.scale
        return {name: value[0].float().cpu() for name, value in made.items()}

    def _cut(self, path: str, value: Any, size: tuple[int, int], padded: tuple[int, ...]) -> Tensor:
        """A tap without what padding added; only maps of a whole multiple of the LR size can be cropped."""
        if not isinstance(value, Tensor) or value.dim() != 4:
            raise UserError(f"cache-teacher: tap '{path}' gives no single feature map (C, H, W): store another")
        ratio = value.shape[-1] // padded[1]
        if ratio < 1 or tuple(value.shape[-2:]) != (padded[0] * ratio, padded[1] * ratio):
            raise UserError(
                f"cache-teacher: tap '{path}' is {value.shape[-2]}x{value.shape[-1]} for an input of "
                f"{padded[0]}x{padded[1]}: only maps of a whole multiple of the LR size can be cropped "
                "with the images"
            )
        self.ratios[path] = ratio
        return value[..., : size[0] * ratio, : size[1] * ratio]
