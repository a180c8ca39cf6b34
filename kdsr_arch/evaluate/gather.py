"""Shares the items of a test among the processes and brings the results back in the order of the data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kdsr_arch.errors import UserError
from kdsr_arch.parallel import distributed

R = TypeVar("R")


def gather_in_order(work: Iterable[tuple[int, R]]) -> list[R]:
    """The results of all processes, by item number, on every process.

    Args:
        work: (item number, result) pairs, computed as they are drawn.

    Raises:
        UserError: on every process, when any met one (the others would wait for it forever otherwise).
    """
    mine: list[tuple[int, R]] = []
    fault: UserError | None = None
    try:
        mine.extend(work)
    except UserError as error:
        fault = error
    parts = distributed.gather((mine, str(fault) if fault else None))
    if fault is not None:
        raise fault
    for _, text in parts:
        if text:
            raise UserError(text)
    return [result for _, result in sorted((pair for part, _ in parts for pair in part), key=lambda pair: pair[0])]
