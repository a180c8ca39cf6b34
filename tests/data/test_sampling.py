"""The law of sampling: the seed and the position decide, and nothing else does."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from kdsr_arch.data.loader import Batches, PlannedSampler, epoch_permutation, first_sample
from kdsr_arch.errors import UserError

LENGTH, TOTAL = 7, 6


class Ours(Dataset):
    """Draws from the generator it is given."""

    def __len__(self):
        return LENGTH

    def sample(self, index, rng):
        return {"value": torch.tensor([float(index), rng.random()], dtype=torch.float64), "key": str(index)}


class Theirs(Dataset):
    """Draws from all three global generators, as BasicSR's data sets do."""

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        draws = [float(index), random.random(), np.random.rand(), float(torch.rand(1))]
        return {"value": torch.tensor(draws, dtype=torch.float64), "key": str(index)}


def batches(dataset, batch=4, workers=0, **options) -> list[torch.Tensor]:
    sampler = PlannedSampler(LENGTH, batch, **{"seed": 3, "total_iter": TOTAL, **options})
    drawn = [item["value"] for item in Batches(dataset, sampler, workers)]
    assert len(drawn) == len(sampler)
    return drawn


@pytest.fixture(params=[Ours, Theirs])
def dataset(request):
    return request.param()


def test_workers_change_nothing(dataset):
    whole = torch.stack(batches(dataset))
    for workers in (1, 2):
        assert torch.equal(torch.stack(batches(dataset, workers=workers)), whole)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_change_nothing(dataset, world):
    whole = torch.stack(batches(dataset))
    parts = [torch.stack(batches(dataset, 4 // world, rank=rank, world=world)) for rank in range(world)]
    assert torch.equal(torch.cat(parts, 1), whole)


def test_accumulation_changes_nothing(dataset):
    micro = torch.stack(batches(dataset, 2, accumulation=2))
    assert torch.equal(micro.reshape(TOTAL, 4, -1), torch.stack(batches(dataset)))
    ranks = [torch.stack(batches(dataset, 1, rank=r, world=2, accumulation=2)) for r in (0, 1)]
    assert torch.equal(torch.cat(ranks, 1).reshape(TOTAL, 4, -1), torch.stack(batches(dataset)))


@pytest.mark.parametrize("start", range(TOTAL + 1))
def test_restarts_change_nothing(dataset, start):
    rest = batches(dataset, start_iter=start)
    assert len(rest) == TOTAL - start
    for drawn, expected in zip(rest, batches(dataset)[start:], strict=True):
        assert torch.equal(drawn, expected)


def test_the_training_generators_are_left_alone(dataset):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), float(torch.rand(1))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    batches(dataset, workers=0), batches(dataset, workers=1)
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == expected


def test_every_epoch_holds_each_index_once_in_another_order():
    drawn = np.concatenate([batch[:, 0] for batch in batches(Ours(), batch=7, total_iter=3)]).reshape(3, LENGTH)
    for epoch in drawn:
        assert sorted(epoch) == list(range(LENGTH))
    assert len({tuple(epoch) for epoch in drawn}) == 3
    assert not np.array_equal(epoch_permutation(0, 0, 50), epoch_permutation(1, 0, 50))


def test_an_epoch_may_repeat_each_index():
    sampler = PlannedSampler(5, 3, seed=0, repeat=6, total_iter=10)
    drawn = [key.dataset_index for batch in sampler for key in batch]
    assert sorted(drawn) == sorted(6 * list(range(5))) and drawn[:5] != sorted(drawn[:5])


def test_repeated_indices_get_new_randomness():
    values = torch.cat(batches(Ours(), total_iter=20))
    assert len({float(v) for v in values[:, 1]}) == len(values)


def test_impossible_plans_are_refused():
    for bad in ({"length": 0, "batch": 1}, {"length": 1, "batch": 0}, {"length": 1, "batch": 1, "rank": 1}):
        with pytest.raises(ValueError, match="no batches"):
            PlannedSampler(seed=0, **bad)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_data_is_one_sentence_from_workers_too(workers):
    class Bad(Ours):
        def sample(self, index, rng):
            raise UserError("a.png: the frame does not decode")

    with pytest.raises(UserError) as caught:
        list(Batches(Bad(), PlannedSampler(LENGTH, 1, seed=0, total_iter=2), workers))
    assert str(caught.value) == "a.png: the frame does not decode"


def test_leaving_early_ends_the_workers_at_once():
    started = time.monotonic()
    drawn = Batches(Ours(), PlannedSampler(LENGTH, 1, seed=0, total_iter=10_000), 2)
    next(drawn)
    workers = torch.multiprocessing.active_children()
    assert len(workers) == 2
    del drawn
    assert not torch.multiprocessing.active_children()
    assert time.monotonic() - started < 5


def test_the_first_sample_is_the_one_that_training_begins_with(dataset):
    first = first_sample(dataset, seed=3)
    assert torch.equal(first["value"], batches(dataset)[0][:1]) and first["key"] == [str(int(first["value"][0, 0]))]
