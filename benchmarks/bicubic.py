"""Time of the bicubic resize of a 1280x720 frame, beside basicsr's, and the distance between the two.

python -m benchmarks.bicubic [--device cpu] [--threads 1] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.record import save
from kdsr_arch.ops.bicubic import imresize, imresize_uint8


def best_ms(function: Callable[[], object], device: str, repeats: int = 15) -> float:
    """Shortest of some runs after one to warm up: processor time on the CPU, which other load does not lengthen."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    function()
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return round(1e3 * min(times), 2)


def report(device: str) -> dict[str, object]:
    """Milliseconds per frame and the largest difference from basicsr on noise in [0, 1]."""
    from basicsr.utils.matlab_functions import imresize as reference

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    planar = (torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255).to(device)
    real = image.astype(np.float32) / 255
    result: dict[str, object] = {"threads": torch.get_num_threads()}
    for factor in (2, 3, 4):
        scale = 1 / factor
        ours = imresize(planar, scale)
        result[f"x1/{factor}"] = {
            "float_ms": best_ms(lambda s=scale: imresize(planar, s), device),
            "uint8_ms": best_ms(lambda s=scale: imresize_uint8(image, s), "cpu"),
            "basicsr_tensor_ms": best_ms(lambda s=scale: reference(planar.cpu(), s), "cpu", 3),
            "basicsr_array_ms": best_ms(lambda s=scale: reference(real, s), "cpu", 3),
            "difference": float((ours.cpu() - reference(planar.cpu(), scale)).abs().max()),
        }
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = report(args.device)
    print(json.dumps(result, indent=1))
    save(args.out, result, args.device)


if __name__ == "__main__":
    main()
