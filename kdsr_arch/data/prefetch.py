"""Batches on the device before they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

__all__ = ["ahead_on_device", "to_device"]


def to_device(batch: Any, device: torch.device) -> Any:
    """The tensors of a batch (in dicts, lists and tuples as well) on ``device``; copies from pinned memory overlap."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields"):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def ahead_on_device(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Gives the batches of a loader on ``device``, the next one copied while the caller works on the last.

    On the CPU they are given as they are. Closing it closes what it reads from.
    """
    source = iter(batches)
    try:
        yield from _ahead(source, device) if device.type == "cuda" else source
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


def _ahead(source: Iterator[Any], device: torch.device) -> Iterator[Any]:
    copying = torch.cuda.Stream(device)
    waiting = _copied(source, device, copying)
    while waiting is not None:
        torch.cuda.current_stream(device).wait_stream(copying)
        batch = waiting[0]
        _keep(batch, torch.cuda.current_stream(device))
        waiting = _copied(source, device, copying)  # under way while the caller computes
        yield batch


def _copied(source: Iterator[Any], device: torch.device, stream: torch.cuda.Stream) -> tuple[Any] | None:
    try:
        batch = next(source)
    except StopIteration:
        return None
    with torch.cuda.stream(stream):
        return (to_device(batch, device),)


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
