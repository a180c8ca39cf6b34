"""Training batches: which sample goes where, from the seed alone; loaded by workers and copied to the device ahead.

Position p = (iteration * micro-batches + micro-batch) * global batch + index in the global batch; epoch p // len(data
set) is a seeded permutation, so p gives the data set's index; and the sample's random numbers come from (seed,
iteration, index in the iteration's whole batch). Nothing remembers what came before: workers, ranks and restarts change
nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kdsr_arch.data.basicsr_sets import checked_files, read_item
from kdsr_arch.data.loader_processes import Failure, Watched, collate, start_worker
from kdsr_arch.data.resident import PlannedDataset, Resident
from kdsr_arch.data.store.lmdb_store import close_all
from kdsr_arch.data.store.teacher_store import TeacherStore
from kdsr_arch.errors import UserError, first_line
from kdsr_arch.log import get_logger
from kdsr_arch.options.schema import Options
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import build, is_basicsr, lookup

_QUEUE = 2  # batches that each worker loads ahead
_MOST_PLACES = 1 << 27  # of an epoch, whose order is 1 GiB then


class SampleKey(NamedTuple):
    """One place of one batch: what a worker needs to make the sample."""

    iteration: int
    index_in_batch: int  # in the batch that all ranks and all micro-batches of the iteration form
    dataset_index: int


@functools.lru_cache(maxsize=2)
def epoch_permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """Return the order of the data set's indices in one epoch."""
    return np.random.default_rng([seed, epoch, 0x0E]).permutation(length)


@dataclass(eq=False)
class PlannedSampler(Sampler[list[SampleKey]]):
    """Yields the batches of one rank, from ``start_iter`` to ``total_iter``; ``accumulation`` batches an iteration.

    Args:
        length: of the data set.
        batch: samples per rank and micro-batch.
        seed: of the order.
        repeat: how often an epoch repeats each index.
        rank, world: this process among all of them; rank r takes the r-th slice of each global batch.
        start_iter, total_iter: iterations done before, and in the end.
        accumulation: micro-batches that one optimizer step gathers.
    """

    length: int
    batch: int
    seed: int
    _: KW_ONLY
    repeat: int = 1
    rank: int = 0
    world: int = 1
    start_iter: int = 0
    total_iter: int = 1
    accumulation: int = 1

    def __post_init__(self) -> None:
        if min(self.length, self.batch, self.accumulation) < 1 or not 0 <= self.rank < self.world:
            sizes = f"{self.batch} x {self.accumulation} from {self.length} samples"
            raise ValueError(f"no batches of {sizes}, rank {self.rank} of {self.world}")

    def __len__(self) -> int:
        return max(0, self.total_iter - self.start_iter) * self.accumulation

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for iteration in range(self.start_iter, self.total_iter):
            for micro in range(self.accumulation):
                first = (micro * self.world + self.rank) * self.batch
                yield [self.key(iteration, first + offset) for offset in range(self.batch)]

    def key(self, iteration: int, index_in_batch: int) -> SampleKey:
        """Return what belongs at one place of an iteration's whole batch."""
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

    def draw(self, key: SampleKey) -> Any:
        """Make the sample; raise UserError when it cannot be read, and whatever a data set of others raises."""
        entropy = [self.seed, key.iteration, key.index_in_batch]
        if hasattr(self.dataset, "sample"):
            return self.dataset.sample(key.dataset_index, np.random.default_rng(entropy))
        return read_item(self.dataset, key.dataset_index, entropy)

    def __getitem__(self, key: SampleKey) -> Any:
        try:
            return self.draw(key)
        except (Exception, SystemExit, GeneratorExit) as error:  # whatever a user's data set does
            name = type(self.dataset).__name__
            return Failure.of(error, f"sample {key.dataset_index} of {name} (iteration {key.iteration + 1}): ")


def first_sample(dataset: Dataset, seed: int, count: int = 1) -> dict[str, Any]:
    """Make the first sample of a training, or the first ones, as a batch, in this process; no worker is started.

    Raises:
        UserError: it cannot be read.
    """
    sampler = PlannedSampler(len(dataset), count, seed)  # type: ignore[arg-type]
    sample = collate([SeededDataset(dataset, seed)[key] for key in next(iter(sampler))])
    close_all()  # workers are forked from this process and must inherit no open store
    if isinstance(sample, Failure):
        raise sample.error()
    return sample


# ------------------------------------------------------------------------------------------------------------- batches


def to_device(batch: Any, device: torch.device, channels_last: bool = False) -> Any:
    """Copy the tensors of a batch, in mappings, lists and tuples as well; copies from pinned memory overlap.

    Args:
        channels_last: give images (B, C, H, W) that memory order.
    """
    if isinstance(batch, torch.Tensor):
        layout = torch.channels_last if channels_last and batch.dim() == 4 else torch.preserve_format
        return batch.to(device, non_blocking=True, memory_format=layout)
    if isinstance(batch, dict):
        return {key: to_device(value, device, channels_last) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields"):
        return type(batch)(to_device(value, device, channels_last) for value in batch)
    return batch


class Batches(Iterator[dict[str, Any]]):
    """The micro-batches that a sampler plans, on a device; on CUDA the next one is copied while the caller works.

    An error of drawing a batch is raised when that batch is due: those before it are given. To be closed.

    Args:
        dataset: ours or BasicSR's, in its training phase.
        sampler: which samples make each micro-batch.
        workers: loader processes; 0 loads in this one.
        device: where the batches are wanted.
        channels_last: memory order of images.

    Attributes:
        expand: makes of a batch what a training step takes: the batch itself, or what it names on the device.

    Raises:
        UserError: a sample that cannot be read.
        ProgramFault: the data set, or the joining of its samples, raised something else.
        Lost: a worker died.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: PlannedSampler,
        workers: int = 0,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
    ) -> None:
        self._device, self._channels_last = torch.device(device), channels_last
        on_cuda = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if on_cuda else None
        self._ahead = int(on_cuda)  # batches under way while the caller works on the last
        self._waiting: deque[tuple[Any, torch.cuda.Event | None]] = deque()
        self._failure: Exception | None = None
        self.expand: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda batch: batch
        loader = DataLoader(
            SeededDataset(dataset, sampler.seed),
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=start_worker,
            prefetch_factor=_QUEUE if workers else None,
            pin_memory=on_cuda,
            # it draws a base seed when it starts: from a generator of its own, so that the training's stays as it is
            generator=torch.Generator().manual_seed(0),
        )
        self._source: Watched | None = Watched(loader)  # starts the workers

    def __next__(self) -> dict[str, Any]:
        while self._source is not None and len(self._waiting) <= self._ahead:
            try:
                batch = next(self._source)
                if isinstance(batch, Failure):
                    raise batch.error()
                with torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext():
                    batch = to_device(batch, self._device, self._channels_last)
                copied = self._stream.record_event() if self._stream is not None else None
                self._waiting.append((batch, copied))
            except Exception as error:  # there are no more batches after the last, or after a failure
                self._failure = None if isinstance(error, StopIteration) else error
                self.end_workers()
        if not self._waiting:
            failure, self._failure = self._failure, None
            raise failure or StopIteration
        batch, copied = self._waiting.popleft()
        if copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied)
            _keep(batch, current)
        return batch

    def close(self) -> None:
        """Send the workers home, and let go of what a step needs on the device; harmless when there is neither."""
        self.end_workers()
        self._waiting.clear()
        self.expand = lambda batch: batch

    def end_workers(self) -> None:
        """Send the workers home, and keep what was drawn."""
        if self._source is not None:
            self._source.close()
            self._source = None


def _keep(batch: Any, stream: torch.cuda.Stream) -> None:
    """Keep memory that the copying stream made from being given away while ``stream`` still works on it."""
    if isinstance(batch, torch.Tensor):
        batch.record_stream(stream)
    elif isinstance(batch, (dict, list, tuple)):
        for value in batch.values() if isinstance(batch, dict) else batch:
            _keep(value, stream)


def train_batches(
    opt: Options,
    dataset: Dataset,
    start: int,
    device: torch.device | str = "cpu",
    teacher_names: Iterable[str] | None = None,
    section: DatasetOptions | None = None,
    last: int | None = None,
) -> Batches:
    """Start to draw this process's micro-batches for iterations ``start`` + 1 to ``last``.

    Args:
        dataset: ``datasets.train``, opened.
        start: iterations done already.
        teacher_names: what the batches bring of a stored teacher; None for all that the store holds.
        section: the options of ``dataset``; by default ``datasets.train``.
        last: by default ``train.total_iter``.
    """
    assert opt.train is not None
    section = section or opt.datasets["train"]
    store = getattr(dataset, "teacher", None)
    if teacher_names is not None and isinstance(store, TeacherStore):
        store.keep(teacher_names)
    sampler = PlannedSampler(
        len(dataset),  # type: ignore[arg-type]
        section.batch_size_per_gpu or 1,
        opt.manual_seed,
        repeat=section.dataset_enlarge_ratio or 1,
        rank=distributed.rank(),
        world=distributed.world_size(),
        start_iter=start,
        total_iter=opt.train.total_iter if last is None else last,
        accumulation=opt.train.accumulation,
    )
    channels_last = opt.train.channels_last
    if section.resident is None:
        return Batches(dataset, sampler, section.num_worker_per_gpu, device, channels_last)
    planned = PlannedDataset(dataset)
    resident = Resident(planned.dataset, torch.device(device), channels_last)
    close_all()  # workers are forked from this process and must inherit no open store
    # on the CPU a plan is drawn sooner than a worker could send it
    workers = section.num_worker_per_gpu if torch.device(device).type == "cuda" else 0
    batches = Batches(planned, sampler, workers, device)
    batches.expand = resident
    return batches


# ------------------------------------------------------------------------------------------------------- opening data


def open_dataset(options: DatasetOptions, key: str) -> Any:
    """Make the registered data set that a section describes, and first the data that its `prepare` names.

    Args:
        key: where it stands in the option file, `datasets.PHASE`; for messages, and for the phase.

    Raises:
        UserError: unknown type, or data that is missing or at fault.
    """
    phase = key.rpartition(".")[2].partition("_")[0]
    try:
        for part in (options, *(options.datasets or ())):
            _prepare(part)
    except OSError as error:
        raise UserError(f"{key}: {error.filename or ''}: {error.strerror or error}") from None
    offer = {"phase": phase, "scale": options.scale, "name": options.name}
    foreign = is_basicsr(lookup("data set", options.type))
    with checked_files(options) if foreign else contextlib.nullcontext():
        dataset = build("data set", options, key, offer=offer)
    _check_length(dataset, key)
    repeat = options.dataset_enlarge_ratio or 1
    if repeat > 1 and (places := len(dataset) * repeat) > _MOST_PLACES:
        raise UserError(
            f"{key}.dataset_enlarge_ratio: {places:,} samples an epoch, whose order takes too much memory; lower it to "
            f"{max(_MOST_PLACES // len(dataset), 1):,} or less"
        )
    if phase == "train" and (options.batch_size_per_gpu or 1) > 1:
        _check_shapes(dataset, key)
    return dataset


def _check_length(dataset: Any, key: str) -> None:
    """Raise UserError where a data set does not say how many samples it has, or has none."""
    try:
        count = len(dataset)
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise UserError(
            f"{key}: {type(dataset).__name__} needs __len__, the whole number of its samples, any of which "
            f"__getitem__ or sample gives ({first_line(error)})"
        ) from None
    if count == 0:
        raise UserError(f"{key}: {type(dataset).__name__} holds no samples")


def _check_shapes(dataset: Any, key: str) -> None:
    """Raise UserError where samples make no batch: whole images of several sizes, or parts of a mixture that differ."""
    shapes = sorted(dataset.sample_shapes()) if hasattr(dataset, "sample_shapes") else []
    if len(shapes) > 1:
        some = ", ".join("x".join(map(str, shape)) for shape in shapes[:3]) + ", ..." * (len(shapes) > 3)
        raise UserError(
            f"{key}: its samples have several shapes ({some}), which make no batch: set gt_size, to train on crops of "
            "one size (of all parts of a mixture), or batch_size_per_gpu: 1"
        )


def _prepare(options: DatasetOptions) -> None:
    """Make the data that `prepare` names where `dataroot_gt` expects them, unless they are there.

    A `dataroot_gt` of another name than the recipe makes is left to be told as missing: nothing is written there.
    """
    if not options.prepare:
        return
    root = Path(options.dataroot_gt if isinstance(options.dataroot_gt, str) else "")
    if distributed.from_main(root.exists()):  # one answer: another may see it half made
        return
    from kdsr_arch.data.prepare.demo_data import make_demo_clips, make_demo_images

    make, suffix = {"demo": (make_demo_clips, ".lmdb"), "images": (make_demo_images, "")}[options.prepare]
    if root.name not in (f"train_GT{suffix}", f"test_GT{suffix}"):
        return
    get_logger().info(f"{root} is missing: making it (prepare: {options.prepare}; once, some seconds)")
    if distributed.is_main():
        make(root.parent)
    distributed.barrier()
