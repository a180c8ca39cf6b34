"""Stages whose crops or batches differ from those before: one loader after the other.

A stage's data set is its own, with the stage's `gt_size`, and a sample depends on seed, iteration and index in batch
as ever: what came before a stage changes nothing in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdsr_arch.data.loader import Batches, open_dataset
from kdsr_arch.options.schema import Options
from kdsr_arch.options.schema_data import DatasetOptions


@dataclass(frozen=True)
class Stretch:
    """Iterations that draw alike.

    Attributes:
        last: the last of them.
        section: the data's options there.
        dataset: the data set, opened.
    """

    last: int
    section: DatasetOptions
    dataset: Any


def open_stretches(opt: Options) -> list[Stretch]:
    """Open `datasets.train` as each stage of the training draws from it; once for stages in a row that draw alike.

    Raises:
        UserError: data that is missing or at fault, or has images smaller than a stage's crops.
    """
    assert opt.train is not None
    section, last, found = opt.datasets["train"], 0, list[Stretch]()
    for stage in opt.train.stages:
        last += stage.iters
        own = _of_stage(section, {"gt_size": stage.gt_size, "batch_size_per_gpu": stage.batch_size_per_gpu})
        if found and found[-1].section == own:
            found[-1] = Stretch(last, own, found[-1].dataset)
        else:
            found.append(Stretch(last, own, open_dataset(own, "datasets.train")))
    return found or [Stretch(opt.train.total_iter, section, open_dataset(section, "datasets.train"))]


def _of_stage(section: DatasetOptions, sizes: Mapping[str, int | None]) -> DatasetOptions:
    """Copy a data section with a stage's sizes; a mixture's parts take its crop."""
    changed: dict[str, Any] = {key: value for key, value in sizes.items() if value is not None}
    if not changed:
        return section
    parts = (
        [part.model_copy(update={"gt_size": None}) for part in section.datasets or ()] if "gt_size" in changed else []
    )
    return section.model_copy(update=changed | ({"datasets": parts} if parts else {}))


class BatchesInTurn(Iterator[dict[str, Any]]):
    """The micro-batches of one stretch after the other. To be closed.

    Args:
        stretches: in their order.
        start: iterations done already.
        accumulation: micro-batches of an iteration.
        draw: starts to draw those of a stretch, from an iteration on.
    """

    def __init__(
        self, stretches: Sequence[Stretch], start: int, accumulation: int, draw: Callable[[Stretch, int], Batches]
    ) -> None:
        self._ahead = [stretch for stretch in stretches if stretch.last > start] or list(stretches[-1:])
        self._drawn, self._accumulation, self._draw = start * accumulation, accumulation, draw
        self._begin(start)

    def _begin(self, iteration: int) -> None:
        stretch = self._ahead.pop(0)
        self._end = stretch.last * self._accumulation
        self._now = self._draw(stretch, iteration)

    def __next__(self) -> dict[str, Any]:
        if self._drawn == self._end and self._ahead:
            self._now.close()  # its workers, and what it holds on the device, go before the next come
            self._begin(self._drawn // self._accumulation)
        batch = next(self._now)
        self._drawn += 1
        return batch

    @property
    def expand(self) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """What makes of a batch that which a step takes, see :class:`~kdsr_arch.data.loader.Batches`."""
        return self._now.expand

    def close(self) -> None:
        """Send the workers home."""
        self._now.close()
