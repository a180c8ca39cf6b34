"""The one place that decides where tensors live and in which precision a step runs."""

from __future__ import annotations

import contextlib
import os

import torch

AMP_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


def autocast(device: torch.device, amp: str = "no") -> contextlib.AbstractContextManager:
    """Set the precision of a forward pass: ``'no'``, ``'bf16'`` or ``'fp16'``."""
    if amp == "no":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=AMP_DTYPES[amp])
