"""Trainers on batches that tests make, without data on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch

from kdsr_arch.data.loader import to_device
from kdsr_arch.data.stretches import Stretch
from kdsr_arch.train import trainer as module
from kdsr_arch.train.trainer import Trainer
from tests.helpers.options import make_options

Batch = dict[str, torch.Tensor]


class Batches(Iterator[Batch]):
    """Given batches, in their order."""

    def __init__(self, data: Sequence[Batch] = ()) -> None:
        self._data = iter(data)
        self.expand = lambda batch: batch

    def __next__(self) -> Batch:
        return next(self._data)

    def close(self) -> None:
        """Nothing to close."""


def make_trainer(values: Mapping[str, Any], sample: Batch, kind: type = Trainer) -> Any:
    """A trainer for the options of `values`, whose networks are tried on `sample`."""
    first = {name: images[:1] for name, images in sample.items()}
    with (
        mock.patch.object(module, "open_stretches", lambda opt: [Stretch(opt.train.total_iter, opt.datasets, [])]),
        mock.patch.object(module, "first_sample", lambda *_: first),
        mock.patch.object(module, "train_batches", lambda *_: Batches()),
    ):
        return kind(make_options(values))


def train(trainer: Trainer, data: Sequence[Batch], start: int = 0) -> None:
    """Take a step for each `accumulation` micro-batches of `data`, after iteration `start`."""
    trainer.batches = Batches([to_device(batch, trainer.model.device) for batch in data])  # type: ignore[assignment]
    for iteration in range(start + 1, start + 1 + len(data) // trainer.options.accumulation):
        trainer.step(iteration)
        trainer.position = iteration
