"""How close `kdsr upscale` comes to the bare network: frames per second of both on the same frames, in turns.

    python -m benchmarks.upscale_speed [--frames 60] [--size 320x180] [--threads 1] [--weights NAME] [--rounds 2]
        [--out FILE]

The bare network has its frames in memory as tensors and throws its results away; `kdsr upscale` decodes an H.264 file
and encodes one. They run in turns, in one process, so that a busy machine slows both.

On a machine that others use the clock tells little. Processor time is told as well: of the thread that runs the network
(with one thread: what bounds the speed where a second core is free for reading and writing), and of the whole process
(what bounds it on a single core).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.record import save
from kdsr_arch.device import pick_device
from kdsr_arch.infer.open import Opened, open_network
from kdsr_arch.infer.pixels import to_float
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.registry import build
from kdsr_arch.upscale.dispatch import choose_amp
from kdsr_arch.upscale.video import VideoOptions, upscale_video
from kdsr_arch.upscale.video_input import Decoder, import_av, probe

REAL_TIME = {"type": "VESPCN", "scale": 4, "num_feat": 32, "num_flow_feat": 8, "base": "bicubic"}


def write_clip(path: Path, width: int, height: int, frames: int, source: Path | None) -> None:
    """Make a clip of that size: cut from a video file, or a moving texture."""
    av = import_av()
    images = _from_video(source, width, height, frames) if source else _texture(width, height, frames)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(25), options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in images:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        out.mux(stream.encode())


def _from_video(source: Path, width: int, height: int, frames: int) -> list[np.ndarray]:
    images = [
        cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA)
        for frame, _ in zip(Decoder(probe(source)).frames(), range(frames), strict=False)
    ]
    back_and_forth = images + images[-2:0:-1]
    return [back_and_forth[i % len(back_and_forth)] for i in range(frames)]


def _texture(width: int, height: int, frames: int) -> list[np.ndarray]:
    big = np.random.default_rng(0).integers(0, 256, (height + frames, width + frames, 3), dtype=np.uint8)
    big = cv2.GaussianBlur(big, (0, 0), 2)
    return [big[i : i + height, i : i + width] for i in range(frames)]


@dataclass(frozen=True)
class Spent:
    """Seconds per frame: on the clock, of the network's thread, of the whole process."""

    clock: float
    thread: float
    process: float


def bare(restorer: Restorer, clip: Path) -> Spent:
    """Time the network alone."""
    frames = [to_float(frame.image).to(restorer.device) for frame in Decoder(probe(clip)).frames()]
    count = restorer.at_once(*frames[0].shape[-2:])

    def work() -> int:
        for sr in restorer.stream(frames, count):
            del sr
        if restorer.device.type == "cuda":
            torch.cuda.synchronize()
        return len(frames)

    return _timed(work)


def whole(restorer: Restorer, clip: Path, preset: str) -> Spent:
    """Time the whole command, opening and closing files included."""
    target = clip.with_name("upscaled.mp4")
    options = VideoOptions(preset=preset)
    return _timed(lambda: upscale_video(restorer, clip, target, options).n)


def _timed(work: Callable[[], int]) -> Spent:
    clocks = (time.perf_counter, time.thread_time, time.process_time)
    before = [clock() for clock in clocks]
    count = work()
    return Spent(*((clock() - start) / count for clock, start in zip(clocks, before, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", help="default: an untrained real-time VESPCN, whose speed is the same")
    parser.add_argument("--source", type=Path, help="take the frames from this video")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--preset", default=VideoOptions().preset)
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    width, height = map(int, args.size.split("x"))
    device = pick_device()
    opened = open_network(args.weights, device=device) if args.weights else _untrained(device)
    restorer = Restorer(Runner(opened.net, opened.traits), device, choose_amp("auto", device, opened))
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip, width, height, args.frames, args.source)
        bare(restorer, clip)  # caches and the inference form
        rates = [(bare(restorer, clip), whole(restorer, clip, args.preset)) for _ in range(args.rounds)]
    print(
        f"{args.size} x{opened.traits.scale}, {args.frames} frames, {device}, threads: {args.threads}, preset "
        f"{args.preset}; {args.rounds} rounds, the median of the ratios network / kdsr upscale:"
    )
    ratios = {}
    for kind in ("clock", "thread", "process"):
        ratio = statistics.median(getattr(network, kind) / getattr(command, kind) for network, command in rates)
        seconds = [statistics.median(getattr(pair[i], kind) for pair in rates) for i in (0, 1)]
        print(f"  {kind:8s}{ratio:.3f}   ({1000 * seconds[0]:.1f} and {1000 * seconds[1]:.1f} ms per frame)")
        ratios[kind] = {"ratio": round(ratio, 3), "network_ms": round(1000 * seconds[0], 2),
                       "upscale_ms": round(1000 * seconds[1], 2)}  # fmt: skip
    save(
        args.out,
        {
            "input": f"{args.size}, x{opened.traits.scale}, {args.frames} frames",
            "threads": args.threads,
            "preset": args.preset,
            "rounds": args.rounds,
            "per frame": ratios,
        },
        device,
    )


def _untrained(device: torch.device) -> Opened:
    net = build("network", REAL_TIME, "network_g").eval().requires_grad_(False).to(device)
    return Opened(net, traits_of(net), REAL_TIME)


if __name__ == "__main__":
    main()
