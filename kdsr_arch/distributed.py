"""Many processes, one training: start-up, agreement and averaging.

Networks are not wrapped in DistributedDataParallel. What it offers, overlapping the exchange of gradients with the
backward pass, matters for networks of hundreds of millions of parameters; the students here have thousands to a few
millions, one flat buffer of which is exchanged in well under a millisecond. In return, modules may be frozen from one
stage to the next, terms may come and go, and the gradient of a single term may be measured, without any bookkeeping
of unused parameters; module names and checkpoints are the same with one process and with many; and adapters are
treated like every other parameter.

So: `broadcast_modules` once at the start, `average_gradients` after each backward pass, `broadcast_buffers` where
statistics that differ between processes (batch normalisation) are about to be used or saved.
"""

from __future__ import annotations

import os
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from kdsr_arch.errors import UserError

_control: dist.ProcessGroup | None = None  # gloo group for flags and objects: exchanging them never waits for the GPU


def is_distributed() -> bool:
    """True once several processes were joined by `start`."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number among all, 0 when alone."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes train together, 1 when alone."""
    return dist.get_world_size() if is_distributed() else 1


def is_main() -> bool:
    """True on the one process that writes files and talks to the user."""
    return rank() == 0


def _slurm_environment(port: int | None) -> None:
    """Translate Slurm's variables into torchrun's."""
    try:
        nodes, number, count = (os.environ[k] for k in ("SLURM_NODELIST", "SLURM_PROCID", "SLURM_NTASKS"))
    except KeyError as missing:
        raise UserError(f"--launcher slurm: {missing} is not set; start this command through srun") from None
    hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    os.environ.setdefault("MASTER_ADDR", hosts.stdout.split()[0])
    os.environ["MASTER_PORT"] = str(port or os.environ.get("MASTER_PORT", 29500))
    os.environ["WORLD_SIZE"], os.environ["RANK"] = count, number
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")


def start(launcher: str = "none", use_cuda: bool = False, port: int | None = None, timeout: float = 1800) -> None:
    """Join the other processes of the job.

    Args:
        launcher: 'none' (alone), 'pytorch' (torchrun's environment variables) or 'slurm' (srun's).
        use_cuda: nccl on the GPU numbered like the local rank; otherwise gloo on CPU.
        port: Slurm only, the port of the first node.
        timeout: seconds after which a process that waits for a dead one gives up.

    Raises:
        UserError: the variables of the launcher are missing.
    """
    global _control
    if launcher == "none" or is_distributed():
        return
    if launcher == "slurm":
        _slurm_environment(port)
    missing = [k for k in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if k not in os.environ]
    if missing:
        raise UserError(
            f"--launcher pytorch: {', '.join(missing)} not set; start with 'torchrun --nproc_per_node=N ...', "
            "or use --launcher none"
        )
    if use_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    limit = timedelta(seconds=timeout)
    dist.init_process_group("nccl" if use_cuda else "gloo", timeout=limit)
    _control = dist.new_group(backend="gloo", timeout=limit) if use_cuda else None


def stop() -> None:
    """Leave the group of processes; harmless when alone."""
    global _control
    if is_distributed():
        dist.destroy_process_group()
    _control = None


def barrier() -> None:
    """Wait until every process is here."""
    if is_distributed():
        dist.barrier(group=_control)


def agree_max(value: int) -> int:
    """The largest of all processes' values, the same on each."""
    if not is_distributed():
        return value
    held = torch.tensor(value)
    dist.all_reduce(held, op=dist.ReduceOp.MAX, group=_control)
    return int(held)


def gather(obj: Any) -> list[Any]:
    """Every process's object, in the order of ranks, on each."""
    if not is_distributed():
        return [obj]
    held: list[Any] = [None] * world_size()
    dist.all_gather_object(held, obj, group=_control)
    return held


def from_main(obj: Any) -> Any:
    """The main process's object, on each."""
    if not is_distributed():
        return obj
    held = [obj]
    dist.broadcast_object_list(held, src=0, group=_control)
    return held[0]


def mean_values(values: dict[str, float]) -> dict[str, float]:
    """The mean over processes of each value; the keys must be the same on all."""
    if not is_distributed() or not values:
        return values
    held = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(held, group=_control)
    return dict(zip(values, (held / world_size()).tolist(), strict=True))


def _by_kind(tensors: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    kinds: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = defaultdict(list)
    for tensor in tensors:
        kinds[tensor.dtype, tensor.device].append(tensor)
    return list(kinds.values())


def _copy_back(flat: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    for part, tensor in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True):
        tensor.copy_(part.view(tensor.shape))


@torch.no_grad()
def average(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its mean over the processes; they must be of the same shapes on all."""
    if not is_distributed():
        return
    for group in _by_kind(tensors):
        flat = torch.cat([t.reshape(-1) for t in group])
        dist.all_reduce(flat)
        _copy_back(flat.div_(world_size()), group)


def average_gradients(params: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes.

    Every parameter that requires a gradient takes part, with zeros where it got none, so that the buffers agree
    whatever the graph; a parameter without gradient stays without (terms and stages depend on the iteration only, so
    it is the same on all).
    """
    if is_distributed():
        average(p.grad if p.grad is not None else torch.zeros_like(p) for p in params if p.requires_grad)


@torch.no_grad()
def _broadcast(tensors: Iterable[torch.Tensor]) -> None:
    if not is_distributed():
        return
    for group in _by_kind(t.detach() for t in tensors):
        flat = torch.cat([t.reshape(-1) for t in group])
        dist.broadcast(flat, src=0)
        _copy_back(flat, group)


def broadcast_modules(modules: Iterable[nn.Module]) -> None:
    """Give every process the main one's parameters and buffers."""
    for module in modules:
        _broadcast([*module.parameters(), *module.buffers()])


def broadcast_buffers(modules: Iterable[nn.Module]) -> None:
    """Give every process the main one's buffers (batch-normalisation statistics)."""
    for module in modules:
        _broadcast(module.buffers())
