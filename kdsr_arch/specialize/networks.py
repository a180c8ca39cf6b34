"""The teacher, of one network or several, and the student, as they are named on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdsr_arch.convert.recognize import open_any
from kdsr_arch.distill.teachers import Ensemble, SelfEnsemble
from kdsr_arch.errors import UserError, first_line, notice
from kdsr_arch.infer.open import Opened
from kdsr_arch.infer.pixels import to_float, to_pixels
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer, is_out_of_memory
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.upscale.dispatch import choose_amp

_PADDED = 32  # what the sides are made multiples of for a network that fails on others


@dataclass
class Network:
    """A network that restores the frame in the middle of a few.

    Attributes:
        label: for people.
        restorer: runs it.
        digests: of its files of weights.
        opened: how it was opened; None for several as one.
    """

    label: str
    restorer: Restorer
    digests: list[str]
    opened: Opened | None = None

    @property
    def scale(self) -> int:
        """H / h."""
        return self.restorer.traits.scale

    @property
    def radius(self) -> int:
        """Frames on either side that it is given."""
        return self.restorer.context

    def restore(self, clip: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Restore the middle one of 2 x radius + 1 frames (h, w, 3) RGB; further ones are left out.

        Raises:
            UserError: the network fails, or gives what is not finite.
        """
        middle, radius = len(clip) // 2, min(self.radius, len(clip) // 2)
        frames = [to_float(image) for image in clip[middle - radius : middle + radius + 1]]
        try:
            sr = self.restorer.piece(frames, [radius])[0]
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            sr = self._padded(error).piece(frames, [radius])[0]
        return to_pixels(self.restorer.checked(sr, "a frame of the input"))

    def _padded(self, error: RuntimeError) -> Restorer:
        """Return a restorer that gives the network sides it may take, after it failed on others.

        Raises:
            UserError: it has been given those already.
        """
        traits, runner = self.restorer.traits, self.restorer.runner
        if traits.multiple % _PADDED == 0:
            raise UserError(f"{self.label}: fails on frames of this input ({first_line(error)}); take another teacher")
        notice(f"padded {self.label}", f"{self.label}: fails on this size; its input is padded to multiples of 32")
        padded = Runner(runner.net, replace(traits, multiple=_PADDED))
        self.restorer = Restorer(padded, self.restorer.device, self.restorer.amp)
        self.restorer.runner.name = self.label
        return self.restorer


def open_teacher(
    names: Sequence[str], network: str | None, self_ensemble: bool, device: torch.device, root: Path | None = None,
    precision: str = "auto",
) -> Network:  # fmt: skip
    """Open a teacher: the mean of several, and with `self_ensemble` of eight flips and rotations.

    Args:
        names: files, names of shipped weights, or 'package:NAME/...'.
        network: which network they are of, as YAML, where nothing says it.
        self_ensemble: for networks of single images.
        device: where it runs.
        root: the project whose downloads are looked through.
        precision: see `choose_amp`; several are run in fp32 where one of them needs it.

    Raises:
        UserError: no such file, networks of different scales or that cannot be joined, or one that takes the truth.
    """
    opened = [open_any(name, network, device=device, root=root) for name in names]
    scales = {one.label: one.traits.scale for one in opened}
    if len(set(scales.values())) > 1:
        told = ", ".join(f"{label} x{scale}" for label, scale in scales.items())
        raise UserError(f"the teachers enlarge differently ({told}); their mean needs one scale")
    if privileged := next((one.label for one in opened if one.traits.input == "gt"), None):
        raise UserError(f"{privileged}: is a teacher that is given the ground truth, which nobody has here")
    label = " + ".join(one.label for one in opened)
    net, traits = opened[0].net, opened[0].traits
    if len(opened) > 1:
        net = Ensemble({f"t{place}": one.net for place, one in enumerate(opened)}, traits.scale)
        traits = traits_of(net)
    if self_ensemble:
        net = SelfEnsemble(net, traits.scale)
        label, traits = f"{label} x8", traits_of(net)
    precisions = {choose_amp(precision, device, one) for one in opened}
    amp = precisions.pop() if len(precisions) == 1 else "no"
    return _network(label, net, traits, [one.digest for one in opened], device, amp=amp)


def open_student(name: str, network: str | None, scale: int, device: torch.device, root: Path | None = None) -> Network:
    """Open the student's weights.

    Raises:
        UserError: another scale than the teacher's, no network that can be trained, or one of several frames.
    """
    opened = open_any(name, network, device=device, root=root)
    if opened.traits.scale != scale:
        raise UserError(
            f"{opened.label}: the student enlarges by {opened.traits.scale}, the teacher by {scale}; take a student "
            f"of x{scale}"
        )
    if not opened.network or getattr(opened.net, "pretrained", False):
        raise UserError(f"{opened.label}: cannot be trained here; give the student as .pth or .safetensors of kdsr")
    if opened.traits.mode != "image":
        raise UserError(f"{opened.label}: restores clips; a student of single images can be taught this way")
    return _network(opened.label, opened.net, opened.traits, [opened.digest], device, opened)


def _network(
    label: str, net: nn.Module, traits: object, digests: list[str], device: torch.device, opened: Opened | None = None,
    amp: str = "no",
) -> Network:  # fmt: skip
    runner = Runner(net.eval().requires_grad_(False).to(device), traits)  # type: ignore[arg-type]
    runner.name = label
    return Network(label, Restorer(runner, device, amp), digests, opened)
