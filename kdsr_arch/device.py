"""The one place that decides where tensors live and in which precision a step runs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import torch

AMP_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # numbers of mallopt's parameters, from malloc.h
_KEPT = 2**30  # bytes; larger blocks go back to the system as ever


def pick_device(num_gpu: int | str = "auto") -> torch.device:
    """Return the device of this process.

    Args:
        num_gpu: 0 for the CPU; ``'auto'`` or a positive number for CUDA where it is available, else the CPU.
            Under a distributed launcher each process takes the GPU of its ``LOCAL_RANK``.
    """
    if num_gpu == 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next step, rather than return it to the system and ask again.

    On a CPU a training step frees and allocates the same blocks over and over. The GNU C library gives large ones back
    each time, and the system fills each new page with zeros: up to a fifth of a step. Other C libraries are left alone.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        if libc.mallopt(_M_MMAP_THRESHOLD, _KEPT):  # refused by old ones, where the other alone would slow a step down
            libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def autocast(device: torch.device, amp: str = "no") -> contextlib.AbstractContextManager:
    """Set the precision of a forward pass: ``'no'``, ``'bf16'`` or ``'fp16'``."""
    if amp == "no":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=AMP_DTYPES[amp])


@contextlib.contextmanager
def own_precision(kind: str) -> Iterator[None]:
    """Leave a caller's autocast out: what is called from Python computes as its own options say.

    Within another autocast PyTorch would keep the weights that it has cast, also when a step has changed them.

    Args:
        kind: of device: 'cpu' or 'cuda'.
    """
    if not torch.is_autocast_enabled(kind):
        yield
        return
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_enabled(kind, False)
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_enabled(kind, True)
        torch.set_autocast_cache_enabled(kept)


@contextlib.contextmanager
def own_gradients() -> Iterator[None]:
    """Compute gradients also where a caller has turned them off (torch.no_grad, torch.inference_mode)."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextlib.contextmanager
def kernels_kept() -> Iterator[None]:
    """Put back at the end whether torch computes deterministically, which a training decides for itself."""
    chosen, told = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    searched = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(chosen, warn_only=told)
        torch.backends.cudnn.benchmark = searched


class LateFlag:
    """A yes or no from a device, read so long after it was asked that the CPU need not wait."""

    def __init__(self) -> None:
        self._answer = torch.tensor(False)
        self._made: torch.cuda.Event | None = None

    def ask(self, flag: torch.Tensor) -> None:
        """Have a boolean scalar sent to the CPU."""
        self._answer = torch.empty((), dtype=torch.bool, pin_memory=flag.is_cuda).copy_(flag, non_blocking=True)
        self._made = torch.cuda.current_stream(flag.device).record_event() if flag.is_cuda else None

    def read(self) -> bool:
        """Return what was asked for last; no where nothing was."""
        if self._made is not None:
            self._made.synchronize()
        return bool(self._answer)


def use_channels_last(net: torch.nn.Module) -> None:
    """Keep weights of 2-D convolutions in channels-last memory order; others (3-D convolutions) stay as they are."""
    for param in net.parameters():
        if param.dim() == 4:
            param.data = param.data.contiguous(memory_format=torch.channels_last)
