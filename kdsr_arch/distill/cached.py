"""A teacher that was run once and is read from a store: it stands where a live teacher's side stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kdsr_arch.data.store.teacher_store import TeacherStore
from kdsr_arch.distill.taps import OUTPUT, Taps
from kdsr_arch.errors import UserError, nearest
from kdsr_arch.infer.traits import Traits


class CachedTeacher:
    """What a store holds, in the place of a teacher's :class:`~kdsr_arch.distill.side.Side`.

    The batch's crops come with the images (:meth:`feed`), and are the 'outputs' and 'taps' of the next forward.

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
        self._values: dict[str, Tensor] = {}

    def resolve(self, name: str, where: str) -> str:
        """The stored name that a tap's name stands for."""
        name = self.store.info.get("aliases", {}).get(name, name)
        if name not in self.store.names:
            held = ", ".join(self.store.names)
            hint = nearest(name, self.store.names)
            raise UserError(
                f"{where}.teacher: {self.store.path} does not hold '{name}'{hint} (it holds {held}); "
                "store it with kdsr cache-teacher --taps"
            )
        return name

    def source(self, lq: Tensor, gt: Tensor) -> Tensor:
        """As of a live teacher."""
        return lq

    def feed(self, values: Mapping[str, Tensor]) -> None:
        """The crops that belong to the next batch: name -> (B, C, H, W), or (B, N, C, H, W) of clips."""
        self._values = dict(values)

    def run(self, lq: Tensor, clip: int | None, paths: Sequence[str], learn: bool = False) -> tuple[Tensor, Taps]:
        """The stored output and taps of the first samples of the batch, as many as ``lq`` has."""
        if OUTPUT not in self._values:
            raise UserError(
                f"the batches bring nothing from {self.store.path}: set datasets.train.teacher_cache of an "
                "ImagePairDataset or a ClipDataset"
            )
        count = lq.shape[0]
        held = {name: value[:count].to(lq.device, torch.float32) for name, value in self._values.items()}
        return held[OUTPUT], Taps({path: [held[path].reshape(-1, *held[path].shape[-3:])] for path in paths})

    def compile(self) -> None:
        """Nothing to compile."""
