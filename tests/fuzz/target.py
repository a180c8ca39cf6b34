"""A fuzzing target: one kind of input and the code that reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from kdsr_arch.errors import UserError
from tests.fuzz.mutate import mutate_bytes

MIB = 1 << 20


@dataclass(frozen=True)
class Target:
    """One kind of input, and the code of the project that reads it.

    Attributes:
        name: as the command line and the record call it.
        what: the files it stands for, in words.
        seeds: inputs to start from, made by code; the first is sound.
        run: lets the project read one input; the folder is its scratch, and nothing may be written outside.
        mutate: a change of an input that knows its form, beside changes of plain bytes.
        structured: share of the changes that are `mutate`'s.
        memory: bytes that one input may make the process grow by.
        max_len: longest input.
        share: weight of this target in the number of inputs of a campaign; slower ones have less.
    """

    name: str
    what: str
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes, Path], None]
    mutate: Callable[[bytes, Random], bytes] = mutate_bytes
    structured: float = 0.5
    memory: int = 256 * MIB
    max_len: int = 4096
    share: float = 10

    def change(self, data: bytes, rng: Random) -> bytes:
        """Make one random change of an input."""
        how = self.mutate if rng.random() < self.structured else mutate_bytes
        return how(data, rng)[: self.max_len]


def try_all(*ways: Callable[[], object]) -> None:
    """Read one input in several ways, each of which may refuse it; raise the last refusal."""
    refused: UserError | None = None
    for way in ways:
        try:
            way()
        except UserError as error:
            refused = error
    if refused is not None:
        raise refused
