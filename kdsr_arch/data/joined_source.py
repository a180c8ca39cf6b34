"""Several data roots as one source of frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kdsr_arch.data.augment import Crop
from kdsr_arch.data.keys import distinct_names
from kdsr_arch.data.sources import FrameSource
from kdsr_arch.errors import UserError


class JoinedSource(FrameSource):
    """The frames of several sources, each under the name of its root: ``DIV2K/0001``, ``Flickr2K/000001``.

    Args:
        sources: by name.
    """

    def __init__(self, sources: Mapping[str, FrameSource]) -> None:
        self.sources = dict(sources)
        self.name = " and ".join(source.name for source in sources.values())

    def _part(self, key: str) -> tuple[FrameSource, str]:
        for name, source in self.sources.items():  # a name may hold slashes
            if key.startswith(f"{name}/"):
                return source, key[len(name) + 1 :]
        raise UserError(f"{self.name}: no frame '{key}'; of several data roots, keys begin with the root's name")

    def keys(self) -> list[str]:
        return [f"{name}/{key}" for name, source in self.sources.items() for key in source.keys()]  # noqa: SIM118

    def size(self, key: str) -> tuple[int, int]:
        source, own = self._part(key)
        return source.size(own)

    def get(self, key: str, crop: Crop | None = None) -> np.ndarray:
        source, own = self._part(key)
        return source.get(own, crop)

    def inspect(self, keys: Iterable[str], decode: bool = False) -> None:
        keys = list(keys)
        for name, source in self.sources.items():
            source.inspect([key[len(name) + 1 :] for key in keys if key.startswith(f"{name}/")], decode)

    def where(self, key: str) -> str:
        source, own = self._part(key)
        return source.where(own)

    def stamp(self, key: str) -> str:
        source, own = self._part(key)
        return source.stamp(own)


def root_names(roots: Sequence[Path], name: str) -> list[str]:
    """Name data roots, folders and stores alike, so that they can be told apart.

    Args:
        name: of the data set, for messages.

    Raises:
        UserError: one of them is named twice.
    """
    plain = [root.with_suffix("") if root.suffix == ".lmdb" else root for root in roots]
    names = distinct_names(plain)
    twice = next((root for root, label in zip(roots, names, strict=True) if names.count(label) > 1), None)
    if twice is not None:
        raise UserError(f"{name}: the data root {twice} is named twice; dataset_enlarge_ratio or weights repeat data")
    return names


def part_of(clips: Sequence[str] | None, label: str) -> list[str] | None:
    """Return the clips that lie in the root of that name, by their own names; None for all."""
    return None if clips is None else [clip[len(label) + 1 :] for clip in clips if clip.startswith(f"{label}/")]
