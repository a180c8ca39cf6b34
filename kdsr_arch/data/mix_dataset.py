"""Several training data sets as one, in given proportions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from kdsr_arch.data.pair_dataset import unknown_motion
from kdsr_arch.errors import UserError
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.registry import DATASET_REGISTRY, build


@DATASET_REGISTRY.register()
class MixDataset(torch.utils.data.Dataset):
    """Draws from several data sets; crops and scale must agree, so that samples can be stacked.

    An epoch has as many samples as all parts together, of which each part gives its share: parts that are too small
    repeat, of parts that are too large each sample is drawn at random.

    Args:
        datasets: options of each data set: ``type`` and its keywords.
        weights: share of each part, by default its length.
        name, phase, scale, defaults: keywords for each part that takes them and is not given them.
    """

    def __init__(
        self,
        *,
        datasets: Sequence[Mapping[str, Any]] = (),
        weights: Sequence[float] | None = None,
        name: str = "data set",
        phase: str = "train",
        scale: int = 1,
        **defaults: Any,
    ) -> None:
        if not datasets:
            raise UserError("'datasets' lists no data sets")
        defaults |= {"name": name, "phase": phase, "scale": scale}
        parts = [DatasetOptions.model_validate(part) for part in datasets]
        self.parts = [build("data set", part, f"datasets.{i}", offer=defaults) for i, part in enumerate(parts)]
        for part in self.parts:
            if not hasattr(part, "sample"):
                raise UserError(f"{type(part).__name__} cannot be mixed: it has no sample(index, rng)")
        taught = [getattr(part, "teacher", None) is not None for part in self.parts]
        if any(taught) and not all(taught):
            without = type(self.parts[taught.index(False)]).__name__
            raise UserError(
                f"teacher_cache: the {without} among the parts has nothing stored; take it out, and the teacher is run"
            )
        self._moving = any(getattr(part, "knows_flow", False) for part in self.parts)
        self.lengths = [len(part) for part in self.parts]
        shares = np.asarray(weights or self.lengths, dtype=float)
        if len(shares) != len(parts) or shares.min() < 0 or shares.sum() <= 0:
            raise UserError(f"weights {weights} do not fit {len(parts)} data sets: one positive number each")
        self._ends = np.rint(np.cumsum(shares / shares.sum()) * sum(self.lengths)).astype(int)

    def sample_shapes(self) -> set[tuple[int, ...]]:
        """Return the shapes of the samples of all parts."""
        return {shape for part in self.parts if hasattr(part, "sample_shapes") for shape in part.sample_shapes()}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return a sample of one part, as its own ``sample`` gives it.

        Where some parts know their motion (``flow``, ``visible``), nothing is visible in the samples of the others.
        """
        part = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[part - 1]) if part else 0
        share, length = int(self._ends[part]) - first, self.lengths[part]
        local = (index - first) % length if share >= length else int(rng.integers(length))
        sample = self.parts[part].sample(local, rng)
        if self._moving and "flow" not in sample:
            sample |= unknown_motion(sample["gt"])
        return sample

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.sample(index, np.random.default_rng(np.random.randint(2**31)))
