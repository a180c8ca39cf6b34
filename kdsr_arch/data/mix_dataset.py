"""Several training data sets as one, in given proportions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kdsr_arch.errors import UserError
from kdsr_arch.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class MixDataset(torch.utils.data.Dataset):
    """Draws from several data sets; crops and scale must agree, so that samples can be stacked.

    An epoch has as many samples as all parts together (times ``enlarge_ratio``), of which each part gives its share:
    parts that are too small repeat, of parts that are too large each sample is drawn at random.

    Args (keys of ``opt``):
        datasets: list of data set options; keys of ``opt`` itself (scale, phase, gt_size, ...) are their defaults.
        weights: share of each part, by default its length.
        enlarge_ratio: length of an epoch over the length of all parts.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        parts = opt.get("datasets") or []
        if not parts:
            raise UserError(f"{opt.get('name', 'MixDataset')}: 'datasets' lists no data sets")
        own = ("type", "datasets", "weights", "enlarge_ratio")
        shared = {key: value for key, value in opt.items() if key not in own}
        self.parts = [DATASET_REGISTRY.get(part["type"])({**shared, **part}) for part in parts]
        for part in self.parts:
            if not hasattr(part, "sample"):
                raise UserError(f"{type(part).__name__} cannot be mixed: it has no sample(index, rng)")
        self.lengths = [len(part) for part in self.parts]
        weights = np.asarray(opt.get("weights") or self.lengths, dtype=float)
        if len(weights) != len(parts) or weights.min() < 0 or weights.sum() <= 0:
            raise UserError(f"weights {opt.get('weights')} do not fit {len(parts)} data sets: one positive number each")
        total = sum(self.lengths) * int(opt.get("enlarge_ratio") or 1)
        self._ends = np.rint(np.cumsum(weights / weights.sum()) * total).astype(int)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A sample of one part, as its own ``sample`` gives it."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[part - 1]) if part else 0
        share, length = int(self._ends[part]) - first, self.lengths[part]
        local = (index - first) % length if share >= length else int(rng.integers(length))
        return self.parts[part].sample(local, rng)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.sample(index, np.random.default_rng(np.random.randint(2**31)))
