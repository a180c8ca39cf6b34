"""Fixtures shared by all tests: golden vectors, real data, quiet single-threaded torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdsr_arch  # noqa: F401  (basicsr can be imported from here on)
from tests.helpers.data import data_folder, vector_folders
from tests.helpers.networks import EDVR

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--device`."""
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where tests marked `device` run")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a device that is not there; have convolutions on a GPU computed in float32, as on the CPU."""
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch finds no CUDA device here")
    torch.backends.cudnn.allow_tf32 = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as `deterministic` sets it: read once in a process


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for the device."""
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker("device")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device that --device names."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def num_gpu(device: torch.device) -> int:
    """The option `num_gpu` that takes a training there."""
    return int(device.type == "cuda")


@pytest.fixture(scope="session")
def cuda(device: torch.device) -> torch.device:
    """The device of a test that the CPU cannot run."""
    return device if device.type == "cuda" else pytest.skip("needs a GPU: pytest --device cuda")


@pytest.fixture
def no_waiting(cuda: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """``with no_waiting():`` whatever in there has the CPU wait for the GPU raises."""

    @contextmanager
    def watch() -> Iterator[None]:
        torch.cuda.synchronize(cuda)
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return watch


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
    return dict(EDVR)


@pytest.fixture(autouse=True, scope="session")
def _freed_memory_is_returned() -> Iterator[None]:
    """What `kdsr train` sets for its whole process would outlast the test that called it, and hide another's leak."""
    from kdsr_arch.train import entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "keep_freed_memory", lambda: None)
        yield


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
