"""Time and peak memory of deformable convolution in plain PyTorch, beside torchvision's operator where it runs.

    python -m benchmarks.deform_conv [--device cpu] [--threads 1] [--out FILE]

Shapes are those of EDVR-M: 64 channels, 8 offset groups, 3x3, on a training patch and on a frame.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.record import save
from kdsr_arch.compat import has_compiled_ops
from kdsr_arch.ops.deform_conv import deform_conv2d

SIZES = {"patch_64x64": (64, 64), "frame_180x120": (120, 180)}
CHANNELS, OFFSET_GROUPS, TAPS = 64, 8, 9


def operands(size: tuple[int, int], device: str, grad: bool) -> dict[str, torch.Tensor]:
    """Random tensors with offsets of about two pixels."""
    torch.manual_seed(0)
    tensors = {
        "input": torch.randn(1, CHANNELS, *size),
        "offset": 2 * torch.randn(1, OFFSET_GROUPS * 2 * TAPS, *size),
        "weight": torch.randn(CHANNELS, CHANNELS, 3, 3) / 24,
        "bias": torch.randn(CHANNELS),
        "mask": torch.rand(1, OFFSET_GROUPS * TAPS, *size),
    }
    return {name: tensor.to(device).requires_grad_(grad) for name, tensor in tensors.items()}


def best_ms(function: Callable[[], object], device: str, repeats: int = 15) -> float:
    """Shortest of some runs: the least disturbed one."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return round(1e3 * min(times), 2)


def measure(function: Callable[..., torch.Tensor], size: tuple[int, int], device: str) -> dict[str, float]:
    """Milliseconds of the forward pass without gradient, and of forward and backward."""
    plain, leaves = operands(size, device, grad=False), operands(size, device, grad=True)

    def both() -> None:
        y = function(**leaves, padding=1)
        torch.autograd.grad(y, list(leaves.values()), torch.ones_like(y))

    return {
        "forward_ms": best_ms(lambda: function(**plain, padding=1), device),
        "forward_backward_ms": best_ms(both, device),
    }


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _peak_mb(size: tuple[int, int], mode: str) -> float:
    """Growth of this process' resident memory at the worst moment of one call, in MB (Linux)."""
    tensors = operands(size, "cpu", grad=mode == "backward")
    small = {name: t[..., :8, :8] if name in ("input", "offset", "mask") else t for name, t in tensors.items()}
    deform_conv2d(**small, padding=1).sum()  # libraries are loaded by now
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak back to the present
    before = _status_mb("VmRSS")
    y = deform_conv2d(**tensors, padding=1)
    if mode == "backward":
        y.sum().backward()
    return round(_status_mb("VmHWM") - before, 1)


def peak_mb(name: str, mode: str) -> float:
    """:func:`_peak_mb` in a process of its own, where no freed memory is at hand."""
    command = [sys.executable, "-m", "benchmarks.deform_conv", "--peak", name, mode]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report(device: str) -> dict[str, object]:
    """Measure everything on one device."""
    implementations: dict[str, Callable[..., torch.Tensor]] = {"kdsr": deform_conv2d}
    if has_compiled_ops():
        import torchvision

        implementations["torchvision"] = torchvision.ops.deform_conv2d
    result: dict[str, object] = {"threads": torch.get_num_threads()}
    for name, size in SIZES.items():
        numbers: dict[str, object] = {key: measure(f, size, device) for key, f in implementations.items()}
        if device == "cpu":
            numbers["peak_mb"] = {mode: peak_mb(name, mode) for mode in ("forward", "backward")}
        result[name] = numbers
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures there")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(_peak_mb(SIZES[args.peak[0]], args.peak[1]))
        return
    result = report(args.device)
    print(json.dumps(result, indent=1))
    save(args.out, result, args.device)


if __name__ == "__main__":
    main()
