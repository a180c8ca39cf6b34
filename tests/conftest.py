"""Fixtures shared by all tests: golden vectors, real data, quiet single-threaded torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdsr_arch  # noqa: F401  (basicsr can be imported from here on)
from tests.helpers.data import data_folder, vector_folders

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], np.lib.npyio.NpzFile]:
    """``vectors(name)`` opens NAME.npz from $KDSR_VECTORS, or from ../shared/vectors, or from tests/golden."""
    folders = vector_folders()

    def load(name: str) -> np.lib.npyio.NpzFile:
        for folder in folders:
            if (folder / f"{name}.npz").is_file():
                return np.load(folder / f"{name}.npz", allow_pickle=False)
        pytest.skip(f"golden vectors {name}.npz are in none of {[str(f) for f in folders]} (set KDSR_VECTORS)")

    return load


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test images, clips and weights: $KDSR_DATA, or ../shared/data."""
    return data_folder() or pytest.skip("no folder of real data: set KDSR_DATA")


@pytest.fixture(scope="session")
def tiny_edvr() -> dict[str, Any]:
    """Options of an EDVRSlim as small as it can be, x4 of windows of 3 frames."""
    blocks = {"num_extract_block": 1, "num_reconstruct_block": 1}
    return {"type": "EDVRSlim", "num_feat": 8, "num_hr_feat": 8, "num_frame": 3, "deformable_groups": 2, **blocks}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def taps_seen():
    """``taps_seen(net)`` -> a dict that the next forward fills with the shapes recorded at the declared taps."""

    def watch(net, traits):
        seen = {}
        for alias, path in traits.taps.items():
            net.get_submodule(path).register_forward_hook(
                lambda m, i, o, alias=alias: seen.update({alias: tuple(o.shape)})
            )
        return seen

    return watch


@pytest.fixture
def restorer():
    """``restorer('bicubic' | 'window' | 'window_y' | 'recurrent', **keywords of Restorer)``."""
    from tests.helpers.restorers import small_restorer

    return small_restorer
