"""Which sample goes where, from the seed alone: workers, ranks and restarts change nothing.

Position p = (iteration * micro-batches + micro-batch) * global batch + index in the global batch; epoch p // len(data
set) is a seeded permutation, so p gives the data set's index; and the sample's random numbers come from (seed,
iteration, index in the iteration's whole batch). Nothing remembers what came before.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from kdsr_arch.errors import UserError
from kdsr_arch.signals import leave_signals_to_parent


class SampleKey(NamedTuple):
    """One place of one batch: what a worker needs to make the sample."""

    iteration: int
    index_in_batch: int  # in the batch that all ranks and all micro-batches of the iteration form
    dataset_index: int


@functools.lru_cache(maxsize=2)
def epoch_permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of the data set's indices in one epoch."""
    return np.random.default_rng([seed, epoch, 0x0E]).permutation(length)


class PlannedSampler(Sampler[list[SampleKey]]):
    """Yields the batches of one rank, from ``start_iter`` to ``total_iter``; ``accumulation`` batches an iteration.

    Args:
        length: of the data set.
        repeat: how often an epoch repeats each index.
        batch: samples per rank and micro-batch.
        seed: of the order.
        rank, world: this process among all of them; rank r takes the r-th slice of each global batch.
        start_iter, total_iter: iterations done before, and in the end.
        accumulation: micro-batches that one optimizer step gathers.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        seed: int,
        *,
        repeat: int = 1,
        rank: int = 0,
        world: int = 1,
        start_iter: int = 0,
        total_iter: int = 1,
        accumulation: int = 1,
    ) -> None:
        if length < 1 or batch < 1 or accumulation < 1 or not 0 <= rank < world:
            raise ValueError(f"no batches of {batch} x {accumulation} from {length} samples, rank {rank} of {world}")
        self.length, self.repeat, self.batch, self.seed = length, repeat, batch, seed
        self.rank, self.world, self.accumulation = rank, world, accumulation
        self.start_iter, self.total_iter = start_iter, total_iter

    def __len__(self) -> int:
        return max(0, self.total_iter - self.start_iter) * self.accumulation

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for iteration in range(self.start_iter, self.total_iter):
            for micro in range(self.accumulation):
                first = (micro * self.world + self.rank) * self.batch
                yield [self.key(iteration, first + offset) for offset in range(self.batch)]

    def key(self, iteration: int, index_in_batch: int) -> SampleKey:
        """What belongs at one place of an iteration's whole batch."""
        position = iteration * self.batch * self.world * self.accumulation + index_in_batch
        epoch, rest = divmod(position, self.length * self.repeat)
        index = int(epoch_permutation(self.seed, epoch, self.length * self.repeat)[rest]) % self.length
        return SampleKey(iteration, index_in_batch, index)


class SeededDataset(Dataset):
    """Makes the sample of a :class:`SampleKey`, its random numbers from seed, iteration and index in batch alone.

    A data set with ``sample(index, rng)`` gets its own generator. Any other draws from the global generators of
    ``random``, NumPy and torch, which are seeded for the call and put back after it.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: SampleKey) -> Any:
        entropy = [self.seed, key.iteration, key.index_in_batch]
        if hasattr(self.dataset, "sample"):
            return self.dataset.sample(key.dataset_index, np.random.default_rng(entropy))
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            first, second, third = (int(s) for s in np.random.SeedSequence(entropy).generate_state(3))
            random.seed(first)
            np.random.seed(second)
            torch.default_generator.manual_seed(third)
            return self.dataset[key.dataset_index]
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


class _Failure(str):
    """A sentence about bad data on its way from a worker; DataLoader would wrap the error in a traceback."""


class _Guarded(Dataset):
    """Hands a UserError on as a :class:`_Failure`."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except UserError as error:
            return _Failure(error)


class GuardedLoader(DataLoader):
    """A DataLoader whose workers' UserErrors reach the caller as they are: one sentence."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, _Failure):
                raise UserError(str(batch))
            yield batch


def _collate(samples: list[Any]) -> Any:
    failures = [sample for sample in samples if isinstance(sample, _Failure)]
    return failures[0] if failures else default_collate(samples)


def _start_worker(worker: int) -> None:
    """One thread per worker: parallelism comes from the workers."""
    import cv2

    leave_signals_to_parent(needed_to_save=True)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _workers(count: int) -> dict[str, Any]:
    """DataLoader keywords for ``count`` worker processes."""
    if not count:
        return {"num_workers": 0}
    return {"num_workers": count, "worker_init_fn": _start_worker, "prefetch_factor": 2}


def _own_generator() -> torch.Generator:
    """A DataLoader draws a base seed when it starts; from a generator of its own, so that training's stays as it is."""
    return torch.Generator().manual_seed(0)


def build_train_loader(
    opt_dataset: Mapping[str, Any],
    dataset: Dataset,
    *,
    seed: int,
    rank: int = 0,
    world: int = 1,
    start_iter: int = 0,
    total_iter: int,
    accumulation: int = 1,
) -> DataLoader:
    """A loader over exactly the batches that remain; it is iterated once, and no epoch ends in between.

    Args:
        opt_dataset: ``batch_size_per_gpu`` (of one micro-batch), ``dataset_enlarge_ratio``, ``num_worker_per_gpu``.
        dataset: ours or BasicSR's, in its training phase.
        start_iter, total_iter: iterations already done, and in the end.
        accumulation: micro-batches per iteration; the loader gives them one after the other.
    """
    sampler = PlannedSampler(
        len(dataset),  # type: ignore[arg-type]
        int(opt_dataset.get("batch_size_per_gpu") or 1),
        seed,
        repeat=int(opt_dataset.get("dataset_enlarge_ratio") or 1),
        rank=rank,
        world=world,
        start_iter=start_iter,
        total_iter=total_iter,
        accumulation=accumulation,
    )
    return GuardedLoader(
        _Guarded(SeededDataset(dataset, seed)),
        batch_sampler=sampler,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        generator=_own_generator(),
        **_workers(int(opt_dataset.get("num_worker_per_gpu") or 0)),
    )
