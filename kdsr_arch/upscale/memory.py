"""Free memory, what a network needs of it per LR pixel, and the tile size that follows."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdsr_arch.errors import UserError
from kdsr_arch.upscale.chunks import Piece, Restorer

SMALLEST_TILE = 32
_PROBE = 64
_SHARE = 0.5  # of the free memory: others live on this machine, and convolutions have scratch of their own
_SCRATCH = 2.0
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def free_memory(device: torch.device) -> int:
    """Bytes that a computation on ``device`` may still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([_available(), *_allowed()])


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 4 << 30  # not Linux: a machine that runs torch has that
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields.get("MemAvailable", fields["MemFree"]).split()[0]) * 1024


def _allowed() -> list[int]:
    """What the container's limit leaves, where there is one."""
    found = []
    for limit, used in _LIMITS:
        try:
            found.append(max(int(limit.read_text()) - int(used.read_text()), 0))
        except (OSError, ValueError):  # no such file, or 'max'
            continue
    return found


class _Peak(TorchDispatchMode):
    """The largest number of bytes that tensors made inside held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor):
                self._hold(value)
        return out

    def _hold(self, value: torch.Tensor) -> None:
        storage = value.untyped_storage()
        place = storage.data_ptr()
        if place and place not in self._seen:
            self._seen.add(place)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(value, self._release, place, storage.nbytes())

    def _release(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.now -= size


def bytes_per_pixel(restorer: Restorer, channels: int = 3) -> float:
    """Peak memory of the network per LR pixel and frame given at once, measured on a small input."""
    traits = restorer.model.traits
    side = max(_PROBE, -(-traits.min_size // traits.multiple) * traits.multiple)
    count = max(traits.min_clip, 1) if traits.mode == "recurrent" else 1
    frame = torch.zeros(channels, side, side)
    probe = Restorer(restorer.model, 0, 0, 1)
    with _Peak() as peak:
        probe.restore(Piece([frame] * count, 0, count))
    least = 8.0 * 4 * channels * traits.scale**2  # what ONNX Runtime holds is not seen here: at the least its result
    return max(_SCRATCH * peak.most / (side * side * count), least)


def choose_tile(restorer: Restorer, height: int, width: int, channels: int = 3, free: int | None = None) -> int:
    """The side of a tile in LR pixels for frames of this size; 0 where whole frames fit.

    Raises:
        UserError: not even the smallest tile fits.
    """
    free = free_memory(restorer.model.device) if free is None else free
    count = restorer.frames_at_once(height, width)
    count += 2 * restorer.context if restorer.model.traits.mode == "recurrent" else 0
    pixels = _SHARE * free / (bytes_per_pixel(restorer, channels) * count)
    if pixels >= height * width:
        return 0
    side = math.floor(math.sqrt(pixels)) - 2 * restorer.overlap
    if side < SMALLEST_TILE:
        needed = (SMALLEST_TILE + 2 * restorer.overlap) ** 2 / max(pixels, 1e-9) * free
        raise UserError(
            f"too little memory for one tile: {free / 2**20:.0f} MiB are free on {restorer.model.device}, "
            f"about {needed / 2**20:.0f} MiB are needed; close other programs, lower --overlap or --batch, "
            "or take a smaller network"
        )
    return side
