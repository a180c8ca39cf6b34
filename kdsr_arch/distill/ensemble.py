"""Several teachers as one: their mean is its output, and each of them can be tapped on its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from kdsr_arch.errors import UserError
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import Traits, traits_of
from kdsr_arch.ops.color import rgb_to_y


class Member(nn.Module):
    """One teacher, called as it wants to be on what the ensemble is given; its output is in the common colour."""

    def __init__(self, net: nn.Module, traits: Traits, luma: bool) -> None:
        super().__init__()
        self.net = net
        self.traits = traits
        self.luma = luma
        self._runner = Runner(net, traits)

    def forward(self, lq: Tensor) -> Tensor:
        """Images (B, C, h, w) or frames (B, n, C, h, w) to the image, the centre frame, or all frames if recurrent."""
        if lq.dim() == 4:
            sr = self._runner.forward(lq)
        elif self.traits.mode == "recurrent":
            sr = self._runner.forward(lq, lq.shape[1])
        else:
            sr = self._runner.forward(lq, 1).squeeze(1)
        return rgb_to_y(sr.float()) if self.luma and sr.shape[-3] == 3 else sr


class Ensemble(nn.Module):
    """The mean of several teachers' outputs.

    A term's ``teacher: t2`` taps the output of one member, ``teacher: t2.PATH`` a module or alias inside it.

    Args:
        members: networks by name, in evaluation mode, all of one scale.
        scale: of the experiment.

    Image and window networks may be mixed (an image network restores the window's centre); recurrent ones go together.
    Where a member works on Y alone, the mean is of luma.

    Raises:
        UserError: other scales, or recurrent and other networks together.
    """

    def __init__(self, members: Mapping[str, nn.Module], scale: int | None = None) -> None:
        super().__init__()
        traits = {name: traits_of(net, scale) for name, net in members.items()}
        luma = any(t.color == "y" for t in traits.values())
        self.names = list(members)
        for name, net in members.items():
            self.add_module(name, Member(net, traits[name], luma))
        self.traits = _common(traits, MemberTaps(members, traits))

    def forward(self, lq: Tensor) -> Tensor:
        """The members' mean for images (B, C, h, w) or frames (B, n, C, h, w) in [0, 1]; see Member."""
        return torch.stack([self.get_submodule(name)(lq) for name in self.names]).mean(0)


class MemberTaps(Mapping[str, str]):
    """'t2.PATH' and 't2.ALIAS' as paths inside the ensemble."""

    def __init__(self, members: Mapping[str, nn.Module], traits: Mapping[str, Traits]) -> None:
        self._members, self._traits = dict(members), dict(traits)

    def __getitem__(self, name: str) -> str:
        member, _, inner = name.partition(".")
        if member not in self._members or not inner:
            raise KeyError(name)
        if inner not in {path for path, _ in self._members[member].named_modules()}:
            inner = self._traits[member].taps[inner]
        return f"{member}.net.{inner}"

    def __iter__(self) -> Iterator[str]:
        return (f"{name}.{alias}" for name, traits in self._traits.items() for alias in traits.taps)

    def __len__(self) -> int:
        return sum(len(traits.taps) for traits in self._traits.values())


def _common(traits: Mapping[str, Traits], taps: Mapping[str, str]) -> Traits:
    modes = {t.mode for t in traits.values()}
    if "recurrent" in modes and len(modes) > 1:
        raise UserError("teachers: a recurrent network restores whole clips, so that only recurrent ones go with it")
    if any(t.input == "gt" for t in traits.values()):
        raise UserError("teachers: a privileged network, which is given the ground truth, cannot be one of several")
    held = list(traits.values())
    mode = "window" if "window" in modes else held[0].mode
    color = "rgb" if any(t.color == "rgb" for t in held) else "y"
    return Traits(
        mode,
        held[0].scale,
        max(t.num_frame for t in held),
        color,
        taps=taps,
        multiple=math.lcm(*(t.lr_multiple for t in held)),
        min_size=max(t.lr_minimum for t in held),
        min_clip=max(t.min_clip for t in held),
    )
