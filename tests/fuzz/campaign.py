"""A campaign fuzzes one target after the other, in processes that may die or hang without harm."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.guard import HANG_SECONDS
from tests.fuzz.targets import load
from tests.fuzz.worker import Board
from tests.helpers import ROOT

_STILL_SECONDS = 300.0  # of the clock, for one input that waits for something, or for the imports at the start
_CORNER = re.compile(rb"#\d+\s+(INITED|DONE)\s+cov: (\d+)")
_LIKELY_LOST = 40  # restarts of one target after which something is at fault with the machine


@dataclass
class Outcome:
    """Outcome of one target's inputs.

    Attributes:
        engines: inputs by engine.
        findings: signature, detail and input (hex) of each.
        coverage: edges of the project's code reached by the seeds, and at the end.
    """

    target: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    engines: dict[str, int] = field(default_factory=dict)
    findings: list[dict[str, str]] = field(default_factory=list)
    coverage: tuple[int, int] | None = None


def engines(inputs: int) -> dict[str, int]:
    """Divide the inputs among the engines: nine of ten are coverage-guided where atheris is installed."""
    import importlib.util

    guided = importlib.util.find_spec("atheris") is not None
    drawn = max(inputs // 10, 1)
    return {"atheris" if guided else "chance": inputs - drawn, "hypothesis": drawn}


def fuzz_target(name: str, inputs: int, seed: int, keep: Path | None = None) -> Outcome:
    """Feed `inputs` inputs to a target.

    Args:
        keep: folder for the inputs of findings.
    """
    outcome = Outcome(name)
    began = time.monotonic()
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz_{name}_", dir=base))
    try:
        for engine, runs in engines(inputs).items():
            _run_engine(outcome, folder, engine, runs, seed)
        _gather(outcome, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    outcome.seconds = round(time.monotonic() - began, 1)
    if keep is not None:
        _keep(outcome, keep)
    return outcome


def _run_engine(outcome: Outcome, folder: Path, engine: str, runs: int, seed: int) -> None:
    """Run workers until they have made `runs` inputs; the next one has another seed."""
    board = Board(folder / "board")
    first = board.counts()[0]
    for attempt in range(_LIKELY_LOST):
        left = runs - (board.counts()[0] - first)
        if left <= 0:
            break
        _run_worker(outcome, folder, engine, left, seed + attempt, board)
    outcome.engines[engine] = board.counts()[0] - first


def _run_worker(outcome: Outcome, folder: Path, engine: str, runs: int, seed: int, board: Board) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.worker",
        outcome.target,
        "--engine",
        engine,
        "--runs",
        str(runs),
        "--seed",
        str(seed),
        "--folder",
        str(folder),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "OPENCV_LOG_LEVEL": "SILENT"}
    environment.pop("KDSR_FUZZ_CANARY", None)
    before = board.counts()[0]
    with open(folder / "said", "wb") as said:
        worker = subprocess.Popen(command, stdout=said, stderr=said, env=environment, cwd=ROOT)
        hung = _watch(worker, board)
    text = (folder / "said").read_bytes()
    _read_coverage(outcome, text)
    if hung:
        _add(outcome, f"hang: {outcome.target}", f"no end after {HANG_SECONDS:.0f} s of the processor", board.current())
    elif worker.returncode != 0:
        tail = text[-3000:].decode(errors="replace")
        if board.counts()[0] == before:
            raise RuntimeError(f"target {outcome.target} does not start:\n{tail}")
        _add(outcome, f"crash: {_crash(worker.returncode, tail)}", tail, board.current())


def _watch(worker: subprocess.Popen[bytes], board: Board) -> bool:
    """Wait for a worker's end; kill it, and return True, when one input takes too long."""
    start = count = board.counts()[0]
    since, spent = time.monotonic(), 0.0
    while worker.poll() is None:
        time.sleep(0.1)
        now, used = board.counts()[0], _processor_seconds(worker.pid)
        if now != count:
            count, since, spent = now, time.monotonic(), used
        busy = now != start and used - spent > HANG_SECONDS + 2
        if busy or time.monotonic() - since > _STILL_SECONDS:
            worker.kill()
            worker.wait()
            return True
    return False


def _processor_seconds(process: int) -> float:
    """Return the processor time of a process; unlike the clock it does not depend on other programs."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has just ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _crash(code: int, text: str) -> str:
    """Return the signal's name and the innermost function of the project in the trace."""
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    lines = re.findall(r'File "[^"]*kdsr_arch/([^"]+)", line \d+ in (\w+)', text)
    return f"{name} in {':'.join(lines[0])}" if lines else name


def _read_coverage(outcome: Outcome, text: bytes) -> None:
    edges = dict(_CORNER.findall(text))
    if {b"INITED", b"DONE"} <= set(edges):
        first = outcome.coverage[0] if outcome.coverage else int(edges[b"INITED"])
        outcome.coverage = (first, int(edges[b"DONE"]))


def _add(outcome: Outcome, signature: str, detail: str, data: bytes) -> None:
    if all(known["signature"] != signature for known in outcome.findings):
        outcome.findings.append({"signature": signature, "detail": detail, "input": data.hex()})


def _gather(outcome: Outcome, folder: Path) -> None:
    outcome.inputs, outcome.accepted, outcome.refused = Board(folder / "board").counts()
    if (folder / "findings.jsonl").exists():
        for line in (folder / "findings.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            _add(outcome, record["signature"], record["detail"], bytes.fromhex(record["input"]))


def _keep(outcome: Outcome, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, finding in enumerate(outcome.findings):
        path = folder / f"{outcome.target}_{number:02d}"
        path.with_suffix(".bin").write_bytes(bytes.fromhex(finding["input"]))
        path.with_suffix(".txt").write_text(f"{finding['signature']}\n\n{finding['detail']}\n", encoding="utf-8")


def shares(names: list[str], inputs: int) -> dict[str, int]:
    """Divide `inputs` over the targets by their weights, rounded up."""
    weights = {name: load(name).share for name in names}
    whole = sum(weights.values())
    return {name: -int(-inputs * weight // whole) for name, weight in weights.items()}
