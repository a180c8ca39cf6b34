"""Frames a second of a conversion beside BasicSR's make_lmdb_from_imgs, and the memory of a worker over many samples.

    python -m benchmarks.data_convert VIDEO... [--frames 12] [--rounds 3] [--out FILE]

Frames of 1280x720 as PNG files. The conversions take turns, and wall-clock time is counted, as the point is the use of
two cores: on a machine with other load the rates, though not the processor time, are those of what is left. BasicSR is
run both ways it offers: as its scripts do (which read all frames into memory first, in processes), and one by one.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.data_command import run
from benchmarks.data_frames import video_frames, write_folder
from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.data.prepare.frame_writer import Making
from kdsr_arch.data.prepare.plans import convert_clips
from kdsr_arch.data.sources import FolderSource
from kdsr_arch.data.store.codec import codec_named

PROCESSES = 2
SAMPLES = 10_000


def conversions(root: Path, out: Path) -> dict[str, Callable[[], object]]:
    """Return the conversions by name; each makes the store ``out`` from the frames under ``root``."""
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    keys = FolderSource(root).keys()
    names = [f"{key}.png" for key in keys]

    def theirs(together: bool) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            make_lmdb_from_imgs(str(root), str(out), names, keys, multiprocessing_read=together, n_thread=PROCESSES)

    def ours(name: str) -> None:
        convert_clips(root, out, making=Making(codec_named(name), processes=PROCESSES))

    made = {f"ours, {name}": lambda name=name: ours(name) for name in ("png", "webp", "raw")}
    return {"basicsr, one by one": lambda: theirs(False), "basicsr, processes": lambda: theirs(True), **made}


def rates(root: Path, rounds: int, work: Path) -> dict[str, dict[str, float]]:
    """Measure frames per second, the best of some rounds, and processor time per frame."""
    count = len(FolderSource(root).keys())
    out = work / "out.lmdb"
    seconds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, convert in conversions(root, out).items():
            wall, spent = time.monotonic(), sum(os.times()[:4])
            convert()
            seconds.setdefault(name, []).append((time.monotonic() - wall, sum(os.times()[:4]) - spent))
            shutil.rmtree(out)
    best = {name: min(times) for name, times in seconds.items()}
    return {
        name: {
            "frames_per_second": round(count / wall, 2),
            "processor_ms_per_frame": round(1e3 * min(spent for _, spent in seconds[name]) / count, 1),
            "times_basicsr": round(min(w for n, (w, _) in best.items() if n.startswith("basicsr")) / wall, 2),
        }
        for name, (wall, _) in best.items()
    }


def private_mb() -> float:
    """Memory of this process that no other shares."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def _work(dataset: ClipDataset, results: multiprocessing.SimpleQueue) -> None:
    rng = np.random.default_rng(0)
    seen = []
    for number in range(SAMPLES + 1):
        if number % (SAMPLES // 10) == 0:
            seen.append(round(private_mb(), 1))
        dataset.sample(int(rng.integers(len(dataset))), rng)
    results.put(seen)


def memory_of_a_worker(store: Path) -> list[float]:
    """Private memory of a forked worker in MB, at the start and after each tenth of 10,000 samples."""
    opt = {"dataroot_gt": str(store), "scale": 4, "num_frame": 3, "gt_size": 64, "cache": False, "phase": "train"}
    dataset = ClipDataset(**opt)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_work, args=(dataset, results))
    child.start()
    seen = results.get()
    child.join()
    return seen


def report(videos: list[Path], count: int, rounds: int, root: Path) -> dict[str, object]:
    """Measure all conversions, and the growth of a worker that reads a store."""
    write_folder(video_frames(videos, count), root / "in")
    result: dict[str, object] = {"processes": PROCESSES, "rows": rates(root / "in", rounds, root)}
    low = {"scale": 4, "kind": "BI", "border": "symmetric"}
    convert_clips(root / "in", root / "webp.lmdb", making=Making(codec_named("webp"), low=low))
    result["worker_private_mb"] = memory_of_a_worker(root / "webp.lmdb")
    return result


if __name__ == "__main__":
    run(__doc__, report, "frames", count=12, rounds=3)
