"""A long training stays as it was after its first thousand iterations: memory, open files, speed, growth of the logs.

    python -m benchmarks.long_run --out benchmarks/results/long_run.json        # 20,000 iterations: about 3 minutes

Trains the tiny `image` distillation of tiny_runs.py through the command line, with one loader process, TensorBoard,
200 log lines, 40 checkpoints and 40 validations, and looks at its processes in /proc at every line of the log. Memory
is the resident set of the training and its loader process; speed is processor time, which other programs on the machine
disturb less than the clock. All figures are medians: from a twentieth of the run to three, and of its last tenth;
saving, and batches on their way, open files for a moment.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.kills import CommandLine, Training, iteration_of
from benchmarks.record import save
from benchmarks.tiny_runs import make_data, tiny_options, write_options

PAGE, TICK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
MEMORY_LIMIT, SPEED_LIMIT = 0.01, 0.1  # growth that counts as flat


@dataclass
class Sample:
    """Memory, files, time and log of a training at one iteration."""

    iteration: int
    memory: int  # bytes, with its loader processes
    files: int  # open in the training process
    seconds: float  # processor time of the training process so far
    log_bytes: int  # text log, history, TensorBoard
    processes: int = 1  # whose memory it is


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def look(pid: int, iteration: int, folder: Path) -> Sample:
    """Look at a running training whose experiment folder is `folder`."""
    family = _family(pid)
    memory = sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in family) * PAGE
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    logs = [*folder.glob("*.log"), *folder.glob("history.jsonl"), *folder.glob("tb_logger/*")]
    return Sample(iteration, memory, len(os.listdir(f"/proc/{pid}/fd")), sum(map(int, times)) / TICK,
                  sum(path.stat().st_size for path in logs), len(family))  # fmt: skip


def watch(training: Training, folder: Path) -> list[Sample]:
    """Take a sample for each new line of the log, until the training ends.

    Raises:
        SystemExit: it failed.
    """
    samples: list[Sample] = []
    while training.poll() is None:
        iteration = iteration_of(training.said())
        if iteration > (samples[-1].iteration if samples else 0):
            try:
                samples.append(look(training.pid, iteration, folder))
            except (OSError, IndexError):  # it has just ended
                break
        time.sleep(0.01)
    while training.poll() is None:
        time.sleep(0.01)
    if training.poll():
        raise SystemExit(f"the training ended with {training.poll()}; it said:\n{training.said()[-3000:]}")
    return samples


def _rate(samples: list[Sample], of: Callable[[Sample], float]) -> float:
    """Return the median growth of a quantity per iteration."""
    pairs = zip(samples, samples[1:], strict=False)
    return statistics.median((of(b) - of(a)) / (b.iteration - a.iteration) for a, b in pairs)


def judge(samples: list[Sample], total: int) -> dict[str, Any]:
    """Compare the second tenth of a training with its last tenth; return figures, and whether each is flat.

    Samples without the loader process are left out: the memory is smaller then.
    """
    samples = [s for s in samples if s.processes == max(sample.processes for sample in samples)]
    early = [s for s in samples if total // 20 <= s.iteration <= total * 3 // 20]
    late = [s for s in samples if s.iteration > total * 9 // 10]
    memory = [statistics.median(s.memory for s in part) for part in (early, late)]
    seconds = [_rate(part, lambda s: s.seconds) for part in (early, late)]
    logged = [_rate(part, lambda s: s.log_bytes) for part in (early, late)]
    growth = memory[1] / memory[0] - 1
    open_files = [statistics.median_low(s.files for s in part) for part in (early, late)]
    return {
        "memory_mb": [round(m / 2**20, 2) for m in memory],
        "memory_growth": round(growth, 5),
        "memory_flat": growth < MEMORY_LIMIT,
        "open_files": open_files,
        "open_files_flat": open_files[1] <= open_files[0],
        "ms_an_iteration": [round(1000 * s, 3) for s in seconds],
        "speed_flat": seconds[1] < seconds[0] * (1 + SPEED_LIMIT),
        "log_bytes": samples[-1].log_bytes,
        "log_bytes_a_thousand_iterations": [round(1000 * b) for b in logged],
        "log_flat": logged[1] <= logged[0] * 1.1,
    }


def long_options(data: Path, total: int) -> dict[str, Any]:
    """Return the options of the long training: 200 log lines, 40 validations and checkpoints, of which two stay.

    To save time its batches are of one sample and it has no affinity term.
    """
    options = tiny_options("image", data, total)
    options["datasets"]["train"]["batch_size_per_gpu"] = 1
    del options["train"]["distill_opt"]["affinity"]
    options["val"]["val_freq"] = max(1, total // 40)
    options["logger"] = {"print_freq": max(1, total // 200), "save_checkpoint_freq": max(1, total // 40),
                         "keep_last": 2, "use_tb_logger": True}  # fmt: skip
    options["train"]["ratio_freq"] = max(1, total // 200)
    return options


def run(root: Path, total: int, start: Callable[..., Training] = CommandLine) -> dict[str, Any]:
    """Run the long training in an empty folder and return its record."""
    make_data(root / "data")
    began = time.monotonic()
    training = start(write_options(root, long_options(root / "data", total)))
    samples = watch(training, root / "experiments" / "tiny")
    return {"iterations": total, "seconds": round(time.monotonic() - began, 1), "samples": len(samples),
            **judge(samples, total)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=20000)
    parser.add_argument("--out", type=Path, help="write the figures there")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        record = run(Path(folder), args.iterations)
    print(json.dumps(record, indent=1))
    save(args.out, record)
    sys.exit(0 if all(value for key, value in record.items() if key.endswith("_flat")) else 1)


if __name__ == "__main__":
    main()
