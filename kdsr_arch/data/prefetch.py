"""Batches on the device before they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import torch


def to_device(batch: Any, device: torch.device) -> Any:
    """The tensors of a batch (in dicts, lists and tuples as well) on ``device``; copies from pinned memory overlap."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields"):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def ahead_on_device(
    batches: Iterable[Any], device: torch.device, depth: int | None = None
) -> Generator[Any, None, None]:
    """Gives the batches of a loader on ``device``, the next ones copied while the caller works on the last.

    What goes wrong while a batch is drawn is raised when that batch is due: those before it are given.
    Closing it closes what it reads from.

    Args:
        depth: batches under way; by default 1 on CUDA and 0 on the CPU, where none has to be copied.
    """
    depth = int(device.type == "cuda") if depth is None else depth
    source, copier = iter(batches), _Copier(device)
    try:
        yield from _ahead(source, copier, depth) if depth else (copier.copy(batch) for batch in source)
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


class _Copier:
    """Copies to a device: on CUDA on a stream of its own, elsewhere at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def copy(self, batch: Any) -> Any:
        """The copy, on the stream that is current."""
        return to_device(batch, self.device)

    def start(self, batch: Any) -> tuple[Any, torch.cuda.Event | None]:
        """The copy, and when it is whole."""
        if self.stream is None:
            return self.copy(batch), None
        with torch.cuda.stream(self.stream):
            return self.copy(batch), self.stream.record_event()

    def finish(self, copy: Any, whole: torch.cuda.Event | None) -> Any:
        """The copy, for use on the caller's stream, which waits for it."""
        if whole is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(whole)
            _keep(copy, current)
        return copy


def _ahead(source: Iterator[Any], copier: _Copier, depth: int) -> Iterator[Any]:
    waiting: deque[tuple[Any, torch.cuda.Event | None]] = deque()
    failure: Exception | None = None
    drained = False
    while True:
        while not drained and len(waiting) <= depth:  # under way while the caller computes
            try:
                waiting.append(copier.start(next(source)))
            except StopIteration:
                drained = True
            except Exception as error:  # told when its turn comes
                failure, drained = error, True
        if not waiting:
            break
        yield copier.finish(*waiting.popleft())
    if failure is not None:
        raise failure


def _keep(batch: Any, stream: torch.cuda.Stream) -> None:
    """Memory made on the copying stream must not be given away while ``stream`` still works on it."""
    if isinstance(batch, torch.Tensor):
        batch.record_stream(stream)
    elif isinstance(batch, dict):
        for value in batch.values():
            _keep(value, stream)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            _keep(value, stream)
