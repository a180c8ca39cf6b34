"""The teacher of an experiment: one network, several as one, or a store of what it made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.data.store.teacher_store import TeacherStore
from kdsr_arch.device import use_channels_last
from kdsr_arch.distill.taps import OUTPUT, Batch, Taps
from kdsr_arch.errors import UserError, nearest
from kdsr_arch.infer.open import load_pretrained
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import Traits, traits_of
from kdsr_arch.io import file_digest, locate
from kdsr_arch.ops.color import rgb_to_y
from kdsr_arch.options.schema import Options
from kdsr_arch.registry import build


def build_teacher(opt: Options) -> nn.Module | None:
    """Build the live teacher: `network_t`, together with `network_t2` and further ones as an :class:`Ensemble`.

    Members are named t, t2, ...; weights come from `path.pretrain_network_t`, `path.pretrain_network_t2`, ... unless
    the network brings its own (type spandrel).

    Raises:
        UserError: a network that cannot be built, or without trained weights.
    """
    members: dict[str, nn.Module] = {}
    for key, spec in opt.teachers.items():
        label = key.removeprefix("network_")
        members[label] = teacher = build("network", spec, key)
        if not load_pretrained(teacher, opt.path, label) and not getattr(teacher, "pretrained", False):
            raise UserError(
                f"path.pretrain_network_{label}: missing; a teacher without trained weights has nothing to teach"
            )
    if not members:
        return None
    for net in members.values():
        net.eval()
        if opt.train and opt.train.channels_last:
            use_channels_last(net)
    teacher = Ensemble(members, opt.scale) if len(members) > 1 else next(iter(members.values()))
    return SelfEnsemble(teacher, opt.scale) if opt.teacher.self_ensemble else teacher


def weights_files(opt: Options) -> dict[str, Path]:
    """Return each teacher's file of weights, by its key ('network_t', ...), without missing files."""
    return files_named(opt.path.plain(), {key: spec.plain() for key, spec in opt.teachers.items()})


def files_named(paths: Mapping[str, Any], networks: Mapping[str, Mapping[str, Any]]) -> dict[str, Path]:
    """Do what :func:`weights_files` does, of the sections as they stand in an option file."""
    files = {key: paths.get(f"pretrain_{key}") or spec.get("path") for key, spec in networks.items()}
    named = {key: locate(file) for key, file in files.items() if isinstance(file, str)}
    return {key: file for key, file in named.items() if file.is_file()}


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of each file."""
    return {key: file_digest(file) for key, file in files.items()}


def weights_digests(opt: Options) -> dict[str, str]:
    """Return the SHA-256 of each of `weights_files`."""
    return digests(weights_files(opt))


def stored_teacher(opt: Options) -> CachedTeacher | None:
    """Open the store that `datasets.train.teacher_cache` names, in place of the live teacher.

    Raises:
        UserError: it is none, or was made by another teacher than the options name, or by one with other weights.
    """
    path = opt.datasets["train"].teacher_cache if "train" in opt.datasets else None
    if not path:
        return None
    teacher = CachedTeacher(path)
    made_by = teacher.store.info["teacher"]
    named = {key: spec.plain() for key, spec in opt.teachers.items()}
    changed = [key for key in named if named[key] != made_by.get(key)] or sorted(set(made_by) - set(named))
    if named and changed:
        raise UserError(
            f"{path}: was made by another teacher ({changed[0]} differs); make it again with "
            "kdsr cache-teacher, or take datasets.train.teacher_cache out"
        )
    if named and teacher.store.info.get("self_ensemble", False) != opt.teacher.self_ensemble:
        raise UserError(
            f"{path}: was made with another teacher.self_ensemble; set it as it was, or make the store again with "
            "kdsr cache-teacher"
        )
    stored = teacher.store.info.get("weights") or {}  # none in a store of an earlier version
    for key, digest in weights_digests(opt).items() if stored else ():
        if stored.get(key, digest) != digest:
            raise UserError(
                f"{path}: was made with other weights than path.pretrain_{key} has now; remove it and make it again "
                "with kdsr cache-teacher, or take datasets.train.teacher_cache out"
            )
    return teacher


# ------------------------------------------------------------------------------------------------------- several as one


class Member(nn.Module):
    """One teacher, called as it wants to be on what the ensemble is given; its output is in the common color."""

    def __init__(self, net: nn.Module, traits: Traits, luma: bool) -> None:
        super().__init__()
        self.net = net
        self.traits = traits
        self.luma = luma
        self._runner = Runner(net, traits)

    def forward(self, lq: Tensor) -> Tensor:
        """Restore images (B, C, h, w), or of frames (B, n, C, h, w) the center one; all of them if recurrent."""
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

    Image and window networks may be mixed (an image network restores the window's center); recurrent ones go together.
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
        modes, every = {t.mode for t in traits.values()}, list(traits.values())
        if "recurrent" in modes and len(modes) > 1:
            raise UserError("teachers: a recurrent network restores whole clips, so only recurrent ones go with it")
        if any(t.input != "lq" for t in every):
            raise UserError("teachers: a privileged network, which is given the ground truth, cannot be one of several")
        taps = {f"{name}.{alias}": f"{name}.net.{path}" for name, t in traits.items() for alias, path in t.taps.items()}
        paths = [(name, path) for name, net in members.items() for path, _ in net.named_modules() if path]
        self.traits = Traits(
            "window" if "window" in modes else every[0].mode,
            every[0].scale,
            max(t.num_frame for t in every),
            "rgb" if any(t.color == "rgb" for t in every) else "y",
            taps=taps | {f"{name}.{path}": f"{name}.net.{path}" for name, path in paths},
            multiple=math.lcm(*(t.lr_multiple for t in every)),
            min_size=max(t.lr_minimum for t in every),
            min_clip=max(t.min_clip for t in every),
        )

    def forward(self, lq: Tensor) -> Tensor:
        """Return the members' mean for images (B, C, h, w) or frames (B, n, C, h, w) in [0, 1]; see Member."""
        return torch.stack([self.get_submodule(name)(lq) for name in self.names]).mean(0)


class SelfEnsemble(nn.Module):
    """The mean of what an image network makes of the eight flips and rotations of its input, turned back.

    Source: Timofte et al., "Seven ways to improve example-based single image super resolution", CVPR 2016. It turns
    with its input, exactly. Only its output can be tapped.

    Raises:
        UserError: a network of clips, or one that is given the ground truth.
    """

    def __init__(self, net: nn.Module, scale: int | None = None) -> None:
        super().__init__()
        self.net, self.traits = net, replace(traits_of(net, scale), taps={})
        if self.traits.mode != "image" or self.traits.input != "lq":
            raise UserError("teacher.self_ensemble: is for teachers of single images; take it out")

    def forward(self, lq: Tensor) -> Tensor:
        """Restore images (B, C, h, w) in [0, 1]."""
        flips: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
        total = torch.zeros((), device=lq.device)
        for turned in (False, True):  # four at a time: a GPU is no slower for four small images than for one
            views = torch.cat([(lq.transpose(-1, -2) if turned else lq).flip(axes) for axes in flips])
            parts = self.net(views).chunk(4)
            mean = torch.stack([part.flip(axes) for part, axes in zip(parts, flips, strict=True)]).mean(0)
            total = total + (mean.transpose(-1, -2) if turned else mean) / 2
        return total


# ---------------------------------------------------------------------------------------------------- read from a store


class CachedTeacher:
    """A store of what a teacher made, in the place of a live teacher's :class:`~kdsr_arch.distill.taps.Side`.

    The stored crops come with the batch.

    Args:
        path: the store.

    Raises:
        UserError: it is no store.
    """

    name = "teacher"

    def __init__(self, path: str | Path) -> None:
        self.store = TeacherStore(path)
        info = self.store.info
        self.traits = Traits("image", int(info["scale"]), color=info["color"])
        self.net = nn.Module()  # nothing to move or to freeze

    def resolve(self, name: str, where: str) -> str:
        """Return the stored name that a tap's name stands for."""
        name = self.store.info.get("aliases", {}).get(name, name)
        if name not in self.store.names:
            names = ", ".join(self.store.names)
            hint = nearest(name, self.store.names)
            raise UserError(
                f"{where}.teacher: {self.store.path} does not hold '{name}'{hint} (it holds {names}); "
                "store it with kdsr cache-teacher --taps"
            )
        return name

    def pooled(self, name: str, downsample: int, where: str) -> int:
        """Tell over how many pixels a side the stored tap is averaged already.

        Raises:
            UserError: the term averages over no multiple of that.
        """
        side = int(self.store.names.get(name, {}).get("pooled", 1))
        if downsample % side:
            raise UserError(
                f"{where}.downsample: {self.store.path} holds '{name}' averaged over {side}x{side} pixels: set it to a "
                f"multiple of {side}, or store the tap whole, without --pool"
            )
        return side

    def run(self, batch: Batch, paths: Sequence[str], learn: bool = False) -> tuple[Tensor, Taps]:
        """Return the output and taps that the batch brings: (B, C, H, W), or (B, N, C, H, W) of clips."""
        stored: Mapping[str, Tensor] = batch.get("teacher") or {}
        if OUTPUT not in stored:
            raise UserError(
                f"the batches bring nothing from {self.store.path}: set datasets.train.teacher_cache of an "
                "ImagePairDataset or a ClipDataset"
            )
        maps = {name: stored[name].to(batch["lq"].device, torch.float32) for name in {OUTPUT, *paths}}
        return maps[OUTPUT], {path: [maps[path].reshape(-1, *maps[path].shape[-3:])] for path in paths}
