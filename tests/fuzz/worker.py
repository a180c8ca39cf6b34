"""One process that fuzzes one target; `tests.fuzz.campaign` starts it, watches it and restarts it when it dies."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import mmap
import os
import resource
import struct
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random

from tests.fuzz.target import MIB, Target

_HEAD = struct.Struct("<QQQQ")  # inputs, accepted, refused, length of the current input
_ROOM = 4 * MIB
_FRESH = 0.3  # of the changes begin at a seed again: what grew from refused inputs is mostly refused as well


class Board:
    """Counts and current input of a worker, in memory that outlives it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_HEAD.size + _ROOM))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def counts(self) -> tuple[int, int, int]:
        """Return (inputs, accepted, refused)."""
        return _HEAD.unpack_from(self._map)[:3]

    def current(self) -> bytes:
        """Return the current input, or the last one."""
        length = _HEAD.unpack_from(self._map)[3]
        return self._map[_HEAD.size : _HEAD.size + length]

    def begin(self, data: bytes) -> None:
        """Note the input that is read next."""
        inputs, accepted, refused, _ = _HEAD.unpack_from(self._map)
        self._map[_HEAD.size : _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._map, 0, inputs + 1, accepted, refused, len(data))

    def end(self, outcome: str) -> None:
        """Note the outcome of the current input: 'accepted', 'refused' or another word."""
        inputs, accepted, refused, length = _HEAD.unpack_from(self._map)
        counted = (accepted + (outcome == "accepted"), refused + (outcome == "refused"))
        _HEAD.pack_into(self._map, 0, inputs, *counted, length)


def warm_up(target: Target, scratch: Path) -> None:
    """Read the first seed, which is sound, so that no input is charged with imports and caches."""
    from kdsr_arch.errors import UserError

    for _ in range(2):
        with contextlib.suppress(UserError):
            target.run(target.seeds()[0], scratch)


def limit_memory(allowed: int) -> None:
    """Let this process grow by no more address space than the target's allowance, and some for the libraries."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + allowed + 768 * MIB
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _reader(target: Target, folder: Path, board: Board) -> Callable[[bytes], None]:
    """Return a function that reads one input and records each finding's signature once."""
    from tests.fuzz.guard import Finding, Guard

    guard = Guard(folder / "scratch")
    known: set[str] = set()

    def read(data: bytes) -> None:
        board.begin(data)
        try:
            board.end(guard.judge(target, data))
        except Finding as finding:
            if finding.signature not in known:
                known.add(finding.signature)
                record = {"signature": finding.signature, "detail": finding.detail, "input": data.hex()}
                with open(folder / "findings.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")

    return read


def _with_atheris(target: Target, read: Callable[[bytes], None], folder: Path, runs: int, seed: int) -> None:
    """Fuzz guided by coverage: atheris keeps inputs that reach new code. Does not return."""
    import atheris

    seeds = target.seeds()

    def change(data: bytes, max_size: int, number: int) -> bytes:
        rng = Random(number)
        if rng.random() < _FRESH:
            data = rng.choice((seeds[0], rng.choice(seeds)))
        elif target.structured < 1 and rng.random() < 0.3:
            return atheris.Mutate(data, len(data))[:max_size]
        return target.change(data, rng)[:max_size]

    words = [
        sys.argv[0],
        f"-runs={runs}",
        f"-seed={seed}",
        f"-max_len={target.max_len}",
        "-timeout=100000",
        "-mutate_depth=2",
        "-rss_limit_mb=0",
        "-malloc_limit_mb=0",
        "-print_final_stats=1",
        str(folder / "corpus"),
    ]
    atheris.Setup(words, read, custom_mutator=change)
    atheris.Fuzz()


def _with_hypothesis(target: Target, read: Callable[[bytes], None], runs: int, seed: int) -> None:
    """Fuzz by properties: hypothesis draws a seed input and every choice of the mutator."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    @seeded(seed)
    @settings(
        max_examples=runs,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(target.seeds()), st.integers(1, 4), st.randoms(use_true_random=False))
    def throw(data: bytes, changes: int, rng: Random) -> None:
        for _ in range(changes):
            data = target.change(data, rng)
        read(data)

    throw()


def _with_chance(target: Target, read: Callable[[bytes], None], runs: int, seed: int) -> None:
    """Fuzz with random changes of the seeds, where atheris is not installed."""
    rng, seeds = Random(seed), target.seeds()
    for _ in range(runs):
        data = rng.choice(seeds)
        for _ in range(rng.randint(1, 4)):
            data = target.change(data, rng)
        read(data)


def open_target(name: str, instrumented: bool, scratch: Path) -> Target:
    """Load a target and warm it up; `instrumented` measures coverage of the project's code."""
    from tests.fuzz.targets import load

    context: AbstractContextManager[object] = contextlib.nullcontext()
    if instrumented:
        import atheris

        context = atheris.instrument_imports(include=["kdsr_arch"])
    with context:
        target = load(name)
        warm_up(target, scratch)
    return target


def main() -> None:
    """Run one worker process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--engine", choices=["atheris", "hypothesis", "chance"], required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    faulthandler.enable()
    scratch = args.folder / "scratch"
    for folder in (scratch, args.folder / "corpus"):
        folder.mkdir(exist_ok=True)
    os.chdir(scratch)
    target = open_target(args.target, args.engine == "atheris", scratch)
    for number, data in enumerate(target.seeds()):
        (args.folder / "corpus" / f"seed{number:03d}").write_bytes(data[: target.max_len])
    read = _reader(target, args.folder, Board(args.folder / "board"))
    limit_memory(target.memory)
    if args.engine == "atheris":
        _with_atheris(target, read, args.folder, args.runs, args.seed)
    elif args.engine == "hypothesis":
        _with_hypothesis(target, read, args.runs, args.seed)
    else:
        _with_chance(target, read, args.runs, args.seed)


if __name__ == "__main__":
    main()
