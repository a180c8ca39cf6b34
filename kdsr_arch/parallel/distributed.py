"""Many processes, one training: start-up, agreement and averaging.

Networks are not wrapped in DistributedDataParallel. What it offers, overlapping the exchange of gradients with the
backward pass, matters for networks of hundreds of millions of parameters; the students here have thousands to a few
millions, one flat buffer of which is exchanged in well under a millisecond. In return, modules may be frozen from one
stage to the next, terms may come and go, and the gradient of a single term may be measured, without any bookkeeping
of unused parameters; module names and checkpoints are the same with one process and with many; and adapters are
treated like every other parameter.

So: `broadcast_modules` once at the start, `average_gradients` after each backward pass, `broadcast_buffers` where
statistics that differ between processes (batch normalization) are about to be used or saved.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from kdsr_arch.errors import Lost, UserError, first_line
from kdsr_arch.options.schema import DistOptions
from kdsr_arch.parallel.launchers import local_rank, meet, prepare_environment

_control: dist.ProcessGroup | None = None  # gloo group for flags and objects: exchanging them never waits for the GPU
_notes: dist.Store | None = None  # where a process that fails says why


def is_distributed() -> bool:
    """Tell whether `start` joined several processes."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return this process's number among all, 0 when alone."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return how many processes train together, 1 when alone."""
    return dist.get_world_size() if is_distributed() else 1


def is_main() -> bool:
    """Tell whether this is the process that writes files and talks to the user."""
    return rank() == 0


def start(launcher: str = "none", use_cuda: bool = False, options: DistOptions | None = None) -> None:
    """Join the other processes of the job.

    Args:
        launcher: 'none' (alone), 'pytorch' (torchrun's environment variables) or 'slurm' (srun's).
        use_cuda: on the GPU numbered like the local rank; otherwise on the CPU, always with gloo.
        options: `dist_params` of the option file; the defaults without it.

    Raises:
        UserError: the launcher's variables are missing, or the other processes did not come.
    """
    global _control, _notes
    if is_distributed():
        return
    options = options or DistOptions()
    prepare_environment(launcher, int(options.port or 0) or None)
    if launcher == "none":
        return
    if use_cuda:
        number, there = local_rank(), torch.cuda.device_count()
        if number >= there and options.backend == "nccl":
            raise UserError(
                f"process {number} of this machine has no GPU of its own, and nccl lets none share one: start {there} "
                "processes a machine, or set dist_params.backend to gloo"
            )
        torch.cuda.set_device(number % there)
    limit = timedelta(seconds=options.timeout)
    backend = options.backend if use_cuda else "gloo"
    try:
        store, number, count = meet(limit)
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=limit)
        _control = dist.new_group(backend="gloo", timeout=limit) if backend != "gloo" else None
    except (RuntimeError, ValueError) as error:
        who = f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(f"{who} could not join the others at {where}: {first_line(error)}") from None
    _notes = dist.PrefixStore("notes", store)


def stop() -> None:
    """Leave the group of processes; harmless when alone."""
    global _control, _notes
    if is_distributed():
        dist.destroy_process_group()
    _control = _notes = None


# ------------------------------------------------------------------------------------------- when one of them dies


class ProcessLost(Lost):
    """Another process of the job has ended before its time, so this one cannot go on.

    Attributes:
        trace: the traceback that it left, if any.
    """

    trace = ""


@contextmanager
def joined(launcher: str, use_cuda: bool, options: DistOptions | None) -> Iterator[None]:
    """Run the work between `start` and `stop`; report an error of one process once, however many end of it.

    The process where it arose leaves a note for the others, which find their connections closed a moment later. A
    :class:`UserError` or OSError leaves here with `reported` set: whether another process tells the user already.
    """
    start(launcher, use_cuda, options)
    try:
        yield
    except BaseException as error:
        if is_distributed():
            _tell(error)
        raise
    finally:
        stop()


def _tell(error: BaseException) -> None:
    """Leave word of what ends this process, to the other processes and to torchrun's report; once in a job."""
    if isinstance(error, ProcessLost):
        error.reported = not _first_to_tell()
        return
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
    first = _first_to_tell()
    if isinstance(error, (UserError, OSError)):
        error.reported = not first  # type: ignore[union-attr]
    if not first:
        return
    with suppress(RuntimeError):
        assert _notes is not None
        _notes.set("trace", getattr(error, "trace", ""))
        _notes.set("fault", f"process {rank()} ended the training: {text}")
    if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError), open(report, "w", encoding="utf-8") as file:
            json.dump({"message": text, "timestamp": int(time.time())}, file)


def _first_to_tell() -> bool:
    """Return True on one process of the job only, and where the store of notes died with its process."""
    try:
        return _notes is None or _notes.add("reported", 1) == 1
    except RuntimeError:
        return True


_LOST = re.compile(r"clos(ed|ure)|reset|refused|broken pipe|timed out|timeout|unreachable|recvValue", re.IGNORECASE)


@contextmanager
def _talking() -> Iterator[None]:
    """Report a connection that breaks during an exchange as the death of a process."""
    try:
        yield
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        lost = ProcessLost(
            "another process of this training has died or cannot be reached any more "
            f"({first_line(error).partition('. This is')[0][:300]})"
        )
        with suppress(RuntimeError):  # what the process that failed first left
            if _notes is not None and _notes.check(["fault"]):
                lost.args, lost.trace = (_notes.get("fault").decode(),), _notes.get("trace").decode()
        raise lost from None


# --------------------------------------------------------------------------------------------- agreeing, averaging


def barrier() -> None:
    """Wait until every process is here."""
    if is_distributed():
        with _talking():
            dist.barrier(group=_control)


def agree_max(value: int) -> int:
    """Return the largest of all processes' values, the same on each."""
    if not is_distributed():
        return value
    largest = torch.tensor(value)
    with _talking():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=_control)
    return int(largest)


def gather(obj: Any) -> list[Any]:
    """Return every process's object, in the order of ranks, on each."""
    if not is_distributed():
        return [obj]
    objects: list[Any] = [None] * world_size()
    with _talking():
        dist.all_gather_object(objects, obj, group=_control)
    return objects


def from_main(obj: Any) -> Any:
    """Return the main process's object, on each."""
    if not is_distributed():
        return obj
    objects = [obj]
    with _talking():
        dist.broadcast_object_list(objects, src=0, group=_control)
    return objects[0]


def mean_values(values: dict[str, float]) -> dict[str, float]:
    """Return the mean over processes of each value; the keys must be the same on all."""
    if not is_distributed() or not values:
        return values
    sums = torch.tensor(list(values.values()), dtype=torch.float64)
    with _talking():
        dist.all_reduce(sums, group=_control)
    return dict(zip(values, (sums / world_size()).tolist(), strict=True))


@torch.no_grad()
def _exchange(tensors: Iterable[torch.Tensor], exchange: Callable[[torch.Tensor], object]) -> None:
    """Exchange the tensors in place, all of one dtype and device as one flat buffer; a process alone does nothing."""
    if not is_distributed():
        return
    groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.dtype, tensor.device].append(tensor)
    for group in groups.values():
        flat = torch.cat([t.reshape(-1) for t in group])
        with _talking():
            exchange(flat)
        for part, tensor in zip(flat.split([t.numel() for t in group]), group, strict=True):
            tensor.copy_(part.view(tensor.shape))


def average(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its mean over the processes; they must be of the same shapes on all."""

    def mean(flat: torch.Tensor) -> None:
        dist.all_reduce(flat)
        flat.div_(world_size())

    _exchange(tensors, mean)


def averaged(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor that holds the mean of what it held on each process: the value that a single one would find."""
    average([value])
    return value


def average_gradients(params: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes.

    Every parameter that requires a gradient takes part, with zeros where it got none, so that the buffers agree
    whatever the graph; a parameter without gradient stays without (terms and stages depend on the iteration only, so
    it is the same on all).
    """
    if is_distributed():
        average(p.grad if p.grad is not None else torch.zeros_like(p) for p in params if p.requires_grad)


def broadcast_modules(modules: Iterable[nn.Module]) -> None:
    """Give every process the main one's parameters and buffers."""
    tensors = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
    _exchange(tensors, partial(dist.broadcast, src=0))


def broadcast_buffers(modules: Iterable[nn.Module]) -> None:
    """Give every process the main one's buffers (batch-normalization statistics)."""
    _exchange((buffer for module in modules for buffer in module.buffers()), partial(dist.broadcast, src=0))
