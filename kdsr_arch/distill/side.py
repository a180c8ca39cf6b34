"""One side of a distillation: a network, how it is run, and its recorders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kdsr_arch.device import autocast
from kdsr_arch.distill.taps import Recorder, Taps, compile_network, resolve
from kdsr_arch.errors import UserError
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.color import rgb_to_y


class Side:
    """Runs the student or the teacher and records taps; a plain object, so that it adds nothing to a state dict.

    Args:
        net: the network.
        traits: its traits.
        options: ``amp`` ('no', 'bf16', 'fp16') and ``compile`` (True, a backend's name, or keywords of torch.compile).
        name: 'student' or 'teacher', for messages.
    """

    def __init__(self, net: nn.Module, traits: Traits, options: Mapping[str, Any], name: str) -> None:
        self.net, self.traits, self.name = net, traits, name
        self.amp = options.get("amp") or "no"
        self._compile = options.get("compile") or False
        self._runner = Runner(net, traits)
        self._recorders: dict[tuple[str, ...], Recorder] = {}
        self._copies: frozenset[str] = frozenset()

    def resolve(self, name: str, where: str) -> str:
        """The module path of a tap's name; the term is named where there is none."""
        try:
            return resolve(self.net, self.traits, name)
        except UserError as error:
            raise UserError(f"{where}.{self.name}: {error}") from None

    def source(self, lq: Tensor, gt: Tensor) -> Tensor:
        """What the network is given: the LR images, or the ground truth where it is privileged."""
        return gt if self.traits.input == "gt" else lq

    def run(self, lq: Tensor, clip: int | None, paths: Sequence[str], learn: bool = False) -> tuple[Tensor, Taps]:
        """The network's output and taps.

        Args:
            learn: the pass of the dry run, which finds the taps that have to be copied.
        """
        recorder = self._recorder(tuple(paths), learn)
        with autocast(lq.device, self.amp), recorder as taps:
            sr = self._runner.forward(lq, clip)
        if learn and paths:
            self._copies = recorder.copies if recorder.copies is not None else frozenset(paths)
        return sr, taps

    def compile(self) -> None:
        """Compiles the network where the options ask for it; the network itself stays as it is."""
        if self._compile:
            options = (
                {"backend": self._compile}
                if isinstance(self._compile, str)
                else (dict(self._compile) if isinstance(self._compile, Mapping) else {})
            )
            self._runner = Runner(compile_network(self.net, **options), self.traits)

    def _recorder(self, paths: tuple[str, ...], learn: bool) -> Recorder:
        if learn:
            return Recorder(self.net, paths)
        if paths not in self._recorders:  # kept, since compiled graphs know their hooks
            self._recorders[paths] = Recorder(self.net, paths)
            self._recorders[paths].copies = self._copies & frozenset(paths)
        return self._recorders[paths]


def flat(images: Tensor) -> Tensor:
    """(B, N, C, H, W) -> (B * N, C, H, W); images (B, C, H, W) stay."""
    return images.flatten(0, 1) if images.dim() == 5 else images


def matched_colors(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both as luma (BT.601, [0, 1]) where one has a single channel and the other is RGB; else as they are."""
    if a.shape[-3] == b.shape[-3]:
        return a, b
    return tuple(rgb_to_y(x.float()) if x.shape[-3] == 3 else x for x in (a, b))  # type: ignore[return-value]
