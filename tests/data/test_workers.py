"""Work over processes keeps its order, waits for its consumer, and ends with it."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from kdsr_arch.data.prepare.workers import ordered_map
from kdsr_arch.errors import UserError
from tests.helpers.messages import refuses


def _square(i: int) -> tuple[int, int]:
    return i * i, os.getpid()


def _refuse(i: int) -> int:
    if i == 5:
        raise UserError("five is bad")
    return i


def _die(i: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return i


@pytest.mark.parametrize("processes", [1, 2])
def test_ordered_lazy_and_bounded(processes):
    asked = []

    def items():
        for i in range(100):
            asked.append(i)
            yield i

    results = ordered_map(_square, items(), processes)
    first, worker = next(results)
    assert first == 0 and len(asked) <= 24
    assert (worker == os.getpid()) == (processes == 1)
    assert [value for value, _ in results] == [i * i for i in range(1, 100)]


def test_errors_come_through_and_leave_no_process():
    with pytest.raises(UserError, match="five is bad"):
        list(ordered_map(_refuse, range(20), 2))
    with refuses("worker", "--processes"):
        list(ordered_map(_die, range(20), 2))
    results = ordered_map(_square, range(1000), 2)
    next(results)
    results.close()
    assert not multiprocessing.active_children()
