"""Frames a second of FSRCNN, x4 from 180x120, on a CPU: as shipped, and with the transposed convolution as written.

python -m benchmarks.fsrcnn_speed [--threads 2] [--out FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.record import save
from kdsr_arch.archs.arch_util import SubPixelDeconv
from kdsr_arch.archs.fsrcnn_arch import FSRCNN


class Written(nn.Module):
    """Compute the transposed convolution of a SubPixelDeconv with PyTorch's own operator."""

    def __init__(self, layer: SubPixelDeconv) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        a = self.layer
        return F.conv_transpose2d(x, a.weight, a.bias, a.stride, a.padding, a.output_padding)


def milliseconds(net: nn.Module, x: Tensor, training: bool, repeats: int) -> float:
    """Return the shortest time of a forward pass, or of forward and backward; other programs only add to it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        if training:
            net(x).mean().backward()
        else:
            with torch.inference_mode():
                net(x)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for scale in (2, 3, 4):
        net = FSRCNN(scale).eval()
        written = FSRCNN(scale).eval()
        written.last_layer[0][0] = Written(written.last_layer[0][0])
        for label, training, x in (("forward 180x120", False, torch.rand(1, 1, 120, 180)),
                                   ("step 16 x 24x24", True, torch.rand(16, 1, 24, 24))):  # fmt: skip
            ours = milliseconds(net, x, training, args.repeats)
            plain = milliseconds(written, x, training, args.repeats)
            rows.append({"scale": scale, "case": label, "ms": ours, "ms_as_written": plain})
            print(f"x{scale} {label}: {ours:.1f} ms ({1e3 / ours:.0f}/s); as written {plain:.1f} ms")
    save(args.out, {"threads": args.threads, "repeats": args.repeats, "cases": rows})


if __name__ == "__main__":
    main()
