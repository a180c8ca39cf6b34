"""Drawing ahead changes when batches are loaded, not which, and not when a fault is told."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch

from kdsr_arch.data.loader import Batches
from kdsr_arch.data.sampling import build_train_loader
from kdsr_arch.errors import UserError
from tests.helpers.messages import refuses


class Numbers(torch.utils.data.Dataset):
    """Samples that tell their index and their random numbers."""

    def __init__(self, bad: int | None = None) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 7

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        if index == self.bad:
            raise UserError(f"sample {index} is torn")
        return {"lq": torch.tensor([index]), "gt": torch.from_numpy(rng.random(3)), "key": str(index)}


def loader(workers: int = 0, accumulation: int = 1, dataset: Numbers | None = None):
    options = {"batch_size_per_gpu": 2, "num_worker_per_gpu": workers}
    return build_train_loader(options, dataset or Numbers(), seed=3, total_iter=5, accumulation=accumulation)


def drawn(batches: Batches) -> list:
    first = batches.peek()
    found = list(batches)
    assert found[0] is first
    return [(b["lq"].tolist(), b["gt"].tolist(), b["key"]) for b in found]


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_batches_in_the_same_order(workers, accumulation):
    plain = drawn(Batches(loader(0, accumulation), accumulation))
    ahead = drawn(Batches(loader(workers, accumulation), accumulation, ahead=True))
    assert ahead == plain and len(plain) == 5 and len(plain[0][0]) == 2 * accumulation


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_same_batches_on_cuda():
    batches = Batches(loader(2, 3), 3, device="cuda")
    assert batches.peek()["lq"].device.type == "cuda"
    assert drawn(batches) == drawn(Batches(loader(0, 3), 3))


def test_close_ends_the_workers():
    batches = Batches(loader(2), ahead=True)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()
    with pytest.raises(StopIteration):
        next(batches)
    Batches(loader(2), ahead=True).close()  # never begun


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_before_a_torn_sample_are_given(ahead):
    order = [index for lq, _, _ in drawn(Batches(loader())) for (index,) in lq]
    torn = order[2 * 2]
    sound = next(i for i in range(0, len(order), 2) if torn in order[i : i + 2]) // 2
    batches = Batches(loader(dataset=Numbers(bad=torn)), ahead=ahead)
    for _ in range(sound):
        next(batches)
    with refuses(f"sample {torn}"):
        next(batches)


def test_prepared_data_go_only_where_their_recipe_names_them(tmp_path) -> None:
    from kdsr_arch.data.loader import open_dataset

    opt = {"type": "ClipDataset", "prepare": "demo", "phase": "train", "scale": 4, "name": "demo"}
    with refuses("datasets.train", tmp_path / "elsewhere"):
        open_dataset({**opt, "dataroot_gt": str(tmp_path / "elsewhere")}, "datasets.train")
    assert not list(tmp_path.iterdir())
