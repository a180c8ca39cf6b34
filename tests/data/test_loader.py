"""Drawing ahead changes when batches are loaded, not which, and not when a fault is told."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch

from kdsr_arch.data.loader import Batches, PlannedSampler, SampleKey, first_sample, open_dataset, to_device
from kdsr_arch.errors import ProgramFault, UserError
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.registry import DATASET_REGISTRY
from tests.helpers.messages import refuses


class Numbers(torch.utils.data.Dataset):
    """Samples that tell their index and their random numbers."""

    def __init__(self, bad: int | None = None, error: Exception | None = None) -> None:
        self.bad, self.error = bad, error

    def __len__(self) -> int:
        return 7

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        if index == self.bad:
            raise self.error or UserError(f"sample {index} is torn")
        return {"lq": torch.tensor(index), "gt": torch.from_numpy(rng.random(3)), "key": str(index)}


def batches(
    workers: int = 0, accumulation: int = 1, dataset: Numbers | None = None, device: str | torch.device = "cpu"
) -> Batches:
    sampler = PlannedSampler(7, 2, seed=3, total_iter=5, accumulation=accumulation)
    return Batches(dataset or Numbers(), sampler, workers, device)


def drawn(source: Batches) -> list:
    return [(b["lq"].tolist(), b["gt"].tolist(), b["key"]) for b in source]


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("ahead", [0, 2])
def test_the_same_micro_batches_in_the_same_order(ahead, accumulation):
    plain = drawn(batches(0, accumulation))
    source = batches(2, accumulation)
    source._ahead = ahead
    assert drawn(source) == plain and len(plain) == 5 * accumulation and len(plain[0][0]) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_micro_batches_on_the_device(workers, device):
    source = batches(workers, 3, device=device)
    first = next(source)
    assert first["lq"].device.type == device.type
    assert [(first["lq"].tolist(), first["gt"].tolist(), first["key"]), *drawn(source)] == drawn(batches(0, 3))


def test_drawing_does_not_wait_for_the_gpu(cuda, no_waiting):
    source = batches(2, 3, device=cuda)
    kept = [next(source)]
    with no_waiting():
        kept += [next(source) for _ in range(10)]
    assert [batch["lq"].tolist() for batch in kept] == [numbers for numbers, _, _ in drawn(batches(0, 3))][:11]


class Foreign(torch.utils.data.Dataset):
    """As a user of BasicSR writes one: NumPy arrays, of another size at the end."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> dict:
        size = 4 if index < 6 else 5
        gt = {4: len, 5: None}.get(index, np.zeros(2))
        return {"lq": np.full((3, 4, size), index, np.float32), "gt": gt}


def test_the_first_sample_is_told_like_any_other() -> None:
    first = int(first_sample(Numbers(), 3)["lq"])
    with refuses(f"sample {first} of Numbers", "iteration 1", "ValueError", kind=ProgramFault):
        first_sample(Numbers(first, ValueError("torn")), 3)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("pair", "names"),
    [
        ((3, 6), ("'lq'", "3x4x4", "3x4x5")),
        ((3, 5), ("'gt'", "NoneType")),
        ((4,), ("'gt'", "builtin_function_or_method")),
    ],
)
def test_what_keeps_samples_from_making_a_batch_is_named(pair, names, workers, monkeypatch) -> None:
    monkeypatch.setattr(PlannedSampler, "__iter__", lambda self: iter([[SampleKey(0, i, i) for i in pair]]))
    with refuses(*names, kind=ProgramFault):
        next(Batches(Foreign(), PlannedSampler(7, 2, seed=3), workers))


@pytest.mark.parametrize(("length", "names"), [(None, ["__len__"]), (1e3, ["__len__"]), (0, ["no samples"])])
def test_a_data_set_that_does_not_say_its_length_is_refused(length, names, monkeypatch) -> None:
    class Own(torch.utils.data.Dataset):
        def __init__(self, opt: dict) -> None:
            if length is not None:
                monkeypatch.setattr(Own, "__len__", lambda self: length, raising=False)

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "Own", Own)
    with refuses("datasets.train", "Own", *names):
        open_dataset(DatasetOptions(type="Own"), "datasets.train")


def test_close_ends_the_workers():
    source = batches(2)
    next(source)
    assert len(multiprocessing.active_children()) == 2
    source.close()
    assert not multiprocessing.active_children()
    with pytest.raises(StopIteration):
        next(source)
    batches(2).close()  # never begun
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("ahead", [0, 1])
def test_batches_before_a_torn_sample_are_given(ahead):
    order = [index for lq, _, _ in drawn(batches()) for index in lq]
    torn = order[2 * 2]
    sound = next(i for i in range(0, len(order), 2) if torn in order[i : i + 2]) // 2
    source = batches(dataset=Numbers(bad=torn))
    source._ahead = ahead
    for _ in range(sound):
        next(source)
    with refuses(f"sample {torn}"):
        next(source)
    with pytest.raises(StopIteration):
        next(source)


def test_structures_are_kept_and_images_get_the_memory_order() -> None:
    moved = to_device({"a": [torch.ones(1), "b"], "c": 3}, torch.device("meta"))
    assert moved["a"][0].device.type == "meta" and moved["a"][1] == "b" and moved["c"] == 3
    laid = to_device({"lq": torch.ones(2, 3, 4, 5), "clip": torch.ones(1, 2, 3, 4, 5)}, torch.device("cpu"), True)
    assert laid["lq"].is_contiguous(memory_format=torch.channels_last) and laid["clip"].is_contiguous()


def test_prepared_data_go_only_where_their_recipe_names_them(tmp_path) -> None:
    section = DatasetOptions(
        type="ClipDataset", prepare="demo", scale=4, name="demo", dataroot_gt=str(tmp_path / "elsewhere")
    )
    with refuses("datasets.train", tmp_path / "elsewhere"):
        open_dataset(section, "datasets.train")
    assert not list(tmp_path.iterdir())
