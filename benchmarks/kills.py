"""Trainings that are killed again and again end where the unbroken ones end, bit for bit.

    python -m benchmarks.kills --out benchmarks/results/kills.json                 # all campaigns: about 20 minutes
    python -m benchmarks.kills --campaigns sigkill --kinds std --kills 5

Each campaign starts `python -m kdsr_arch.cli train -opt FILE --auto_resume` on a tiny training (tiny_runs.py), ends it
at a random moment, starts it again, and so on, and at last lets it come to its end. A fifth of the moments fall into
the start-up, a quarter are aimed at a save (the temporary file has just appeared), the others anywhere. Half of the
signals go to the main process alone, half to its loader processes as well. Compared with a run that nothing disturbed
(run_outcome.py): networks, averages, adapters, optimizer, schedule, random states, best values, the history of losses
and validations, and which files are there.

Campaigns: `sigkill`, `sigterm`; `workers`, which resumes with another number of loader processes each time; `compile`,
under torch.compile, equal to the tolerance below.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.record import command, save
from benchmarks.run_outcome import differences, is_saving
from benchmarks.tiny_runs import KINDS, make_data, tiny_options, write_options

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300  # seconds that one training may take
STARTING, SAVING = 0.2, 0.25  # share of the moments that fall into the start-up, that are aimed at a save
COMPILE_TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}  # rounding of float32, should the compiler choose another form
CLEAN = {signal.SIGKILL: {-signal.SIGKILL}, signal.SIGTERM: {128 + signal.SIGTERM, -signal.SIGTERM}}


class Failed(Exception):
    """Raised for a training that ends wrongly; holds its output."""


class Training(Protocol):
    """A started training; `CommandLine` is the real one."""

    pid: int  # the leader of its own process group

    def poll(self) -> int | None:
        """Return the exit code, negative where a signal ended it; None while it runs."""

    def said(self) -> str:
        """Return its output so far."""


class CommandLine:
    """`python -m kdsr_arch.cli train` in a process group of its own."""

    def __init__(self, option_file: Path, *flags: str) -> None:
        self.log = option_file.parent / "said.txt"
        command = [sys.executable, "-m", "kdsr_arch.cli", "train", "-opt", str(option_file), *flags]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, cwd=ROOT)
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.poll()

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def iteration_of(said: str) -> int:
    """Return the last iteration that a training printed; 0 before the first."""
    lines = re.findall(r"^\[([\d,]+)/", said, re.MULTILINE)
    return int(lines[-1].replace(",", "")) if lines else 0


@dataclass
class Moment:
    """When to kill: `delay` seconds after iteration `target` was printed, or after a save began from there on."""

    kind: str  # 'start' (the delay counts from the start), 'save', 'anywhere'
    target: int
    delay: float


def draw_moments(rng: random.Random, kills: int, total: int, startup: float, step: float) -> list[Moment]:
    """Draw random moments along the training, from its start to shortly before its end.

    Args:
        rng: generator.
        kills: number of moments.
        total: iterations of the training.
        startup, step: seconds to the first iteration, and of each.
    """
    first, second = round(kills * STARTING), round(kills * SAVING)
    kinds = ["start"] * first + ["save"] * second + ["anywhere"] * (kills - first - second)
    rng.shuffle(kinds)
    targets = sorted(rng.randrange(1, total - 12) for _ in kinds)
    longest = {"start": startup, "save": 0.004, "anywhere": 3 * step}  # seconds; a line is printed every 2 iterations
    return [Moment(k, t, rng.uniform(0, longest[k])) for k, t in zip(kinds, targets, strict=True)]


def wait_for(training: Training, moment: Moment, root: Path) -> bool:
    """Wait for the moment; return whether the training still runs."""
    deadline = time.monotonic() + PATIENCE
    while moment.kind != "start" and iteration_of(training.said()) < moment.target:
        if training.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    while moment.kind == "save" and not is_saving(root):
        if training.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.0002)
    _sleep(moment, training)
    return training.poll() is None


def _sleep(moment: Moment, training: Training) -> None:
    """Wait for the moment's delay, or less if the training is faster than the unbroken one was."""
    until = time.monotonic() + moment.delay
    latest = {"start": 1, "save": math.inf, "anywhere": moment.target + 6}[moment.kind]
    while (rest := until - time.monotonic()) > 0 and (rest < 0.005 or iteration_of(training.said()) < latest):
        time.sleep(min(rest, 0.005))


def wait_for_end(training: Training) -> int:
    """Return the exit code; kill a training that does not end, and raise `Failed`."""
    deadline = time.monotonic() + PATIENCE
    while (code := training.poll()) is None:
        if time.monotonic() > deadline:
            os.killpg(training.pid, signal.SIGKILL)
            raise Failed(f"a training did not end within {PATIENCE} s; it said:\n{training.said()[-3000:]}")
        time.sleep(0.005)
    return code


def group_is_gone(pid: int, patience: float = 30.0) -> bool:
    """Return whether no process of the group is left, orphaned loader processes included."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


# ------------------------------------------------------------------------------------------------- campaigns


@dataclass
class Campaign:
    """Kills of one kind of training.

    Args:
        kind: of training, see tiny_runs.
        name: 'sigkill', 'sigterm', 'workers', 'compile'.
        kills: how many.
        total: iterations.
        seed: of the moments.
        start: starts a training from an option file and flags.
    """

    kind: str
    name: str
    kills: int
    total: int
    seed: int = 0
    start: Callable[..., Training] = CommandLine
    killed: dict[str, int] = field(default_factory=lambda: {"start": 0, "save": 0, "anywhere": 0})
    within_a_save: int = 0
    groups: list[int] = field(default_factory=list)

    def run(self, folder: Path) -> dict[str, Any]:
        """Run the campaign in an empty folder and return its record."""
        began, rng = time.monotonic(), random.Random(f"{self.kind} {self.name} {self.seed}")
        data = folder / "data"
        make_data(data)
        options = tiny_options(self.kind, data, self.total)
        options["train"]["compile"] = self.name == "compile"
        files = {part: write_options(folder / part, options) for part in ("whole", "broken")}
        startup, step = self._unbroken(files["whole"])
        broken = folder / "broken" / "experiments" / "tiny"
        for moment in draw_moments(rng, self.kills, self.total, startup, step):
            if not self._kill(files["broken"], moment, broken, rng):
                break
        self._finish(self.start(files["broken"], "--auto_resume"))
        record = self._judge(folder / "whole" / "experiments" / "tiny", broken)
        return {**record, "seconds": round(time.monotonic() - began, 1)}

    def _judge(self, whole: Path, broken: Path) -> dict[str, Any]:
        exact = differences(whole, broken, self.total)
        compiled = self.name == "compile"
        unequal = differences(whole, broken, self.total, COMPILE_TOLERANCE) if compiled else exact
        unequal += [f"process group {pid} still runs" for pid in self.groups if not group_is_gone(pid)]
        return {
            "campaign": self.name,
            "training": self.kind,
            "iterations": self.total,
            "kills_survived": 0 if unequal else sum(self.killed.values()),
            "killed": self.killed,
            "killed_within_a_save": self.within_a_save,
            "equal": not unequal,
            "differences": unequal[:20],
            "equal_bit_for_bit": not exact,
            **({"tolerance": COMPILE_TOLERANCE} if compiled else {}),
        }

    def _unbroken(self, option_file: Path) -> tuple[float, float]:
        """Train without disturbance; return the seconds to the first printed iteration, and of each iteration."""
        began, training = time.monotonic(), self.start(option_file)
        while training.poll() is None and not iteration_of(training.said()):
            time.sleep(0.005)
        startup = time.monotonic() - began
        self._finish(training)
        return startup, (time.monotonic() - began - startup) / self.total

    def _finish(self, training: Training) -> None:
        self.groups.append(training.pid)
        if code := wait_for_end(training):
            raise Failed(f"the training ended with {code}; it said:\n{training.said()[-3000:]}")

    def _kill(self, option_file: Path, moment: Moment, root: Path, rng: random.Random) -> bool:
        """Resume the training and kill it at the moment; return False if it ended before."""
        signum = signal.SIGTERM if self.name == "sigterm" else signal.SIGKILL
        flags = ["--auto_resume"]
        if self.name == "workers":
            flags += ["--force_yml", f"datasets:train:num_worker_per_gpu={rng.randrange(4)}"]
        training = self.start(option_file, *flags)
        self.groups.append(training.pid)
        if wait_for(training, moment, root):
            (os.killpg if rng.random() < 0.5 else os.kill)(training.pid, signum)
        code = wait_for_end(training)
        if code == 0:
            return False
        if code not in CLEAN[signum] or (signum == signal.SIGTERM and "Traceback" in training.said()):
            raise Failed(f"{moment}: ended with {code}; it said:\n{training.said()[-3000:]}")
        self.within_a_save += is_saving(root)
        self.killed[moment.kind] += 1
        return True


@dataclass
class Plan:
    """How many kills and iterations a campaign has for each kind of training."""

    kills: int
    total: int
    kinds: tuple[str, ...] = KINDS


PLANS = {"sigkill": Plan(30, 240), "sigterm": Plan(30, 240), "workers": Plan(8, 120),
         "compile": Plan(6, 60, ("image",))}  # fmt: skip


def carry_out(name: str, kind: str, kills: int | None, seed: int) -> dict[str, Any]:
    """Run one campaign on one kind of training, in a temporary folder that stays if something differs."""
    plan, folder = PLANS[name], Path(tempfile.mkdtemp(prefix="kdsr_kills_"))
    try:
        record = Campaign(kind, name, kills or plan.kills, plan.total, seed).run(folder)
    except Failed as error:
        record = {"campaign": name, "training": kind, "kills_survived": 0, "equal": False, "differences": [str(error)]}
    record |= {"date": str(datetime.date.today()), "command": command()}
    print(json.dumps(record), flush=True)
    if record["equal"]:
        shutil.rmtree(folder)
    return record


def write_report(path: Path, records: list[dict[str, Any]]) -> None:
    """Put the records into a JSON file, in place of earlier ones of the same campaign and training."""
    earlier = json.loads(path.read_text(encoding="utf-8"))["campaigns"] if path.exists() else []
    latest = {(r["campaign"], r["training"]): r for r in [*earlier, *records]}
    ordered = [latest[name, kind] for name in PLANS for kind in KINDS if (name, kind) in latest]
    report = {
        "kills_survived": sum(r["kills_survived"] for r in ordered),
        "seconds": round(sum(r.get("seconds", 0.0) for r in ordered), 1),
        "campaigns": ordered,
    }
    save(path, report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--campaigns", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--kills", type=int, help="in each campaign and kind, instead of the plan's number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="campaigns at the same time")
    parser.add_argument("--out", type=Path, help="a JSON file; what it holds of other campaigns stays")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = [(name, kind) for name in args.campaigns for kind in PLANS[name].kinds if kind in args.kinds]
    with ThreadPoolExecutor(args.jobs) as pool:
        running = [pool.submit(carry_out, name, kind, args.kills, args.seed) for name, kind in chosen]
        records = []
        for done in as_completed(running):
            records.append(done.result())
            if args.out:
                write_report(args.out, records)
    sys.exit(0 if all(r["equal"] for r in records) else 1)


if __name__ == "__main__":
    main()
