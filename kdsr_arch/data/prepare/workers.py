"""Work spread over processes, in order, with a bounded amount of it under way."""

from __future__ import annotations

import collections
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from kdsr_arch.errors import UserError
from kdsr_arch.signals import become_worker

In = TypeVar("In")
Out = TypeVar("Out")
_BATCH = 4  # items that go to a process at once: small frames take no longer than the way to it


def _start(parent: int) -> None:
    """Start a worker: one thread, interrupts left to the parent, and an end with the parent."""
    become_worker()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _each(function: Callable[[In], Out], items: list[In]) -> list[Out]:
    return [function(item) for item in items]


def ordered_map(function: Callable[[In], Out], items: Iterable[In], processes: int) -> Iterator[Out]:
    """Map over processes: in order, lazily, never far ahead of what is taken.

    Args:
        function: at a module's top level, or a ``functools.partial`` of such a one.
        items: picklable; drawn in this process.
        processes: 1 works in this process.

    Raises:
        UserError: a process was killed, which is mostly for want of memory.
    """
    if processes <= 1:
        yield from map(function, items)
        return
    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context(kind), initializer=_start, initargs=(os.getpid(),)
    )
    waiting: collections.deque[Future[list[Out]]] = collections.deque()
    items, fault = iter(items), None
    try:
        while fault is None:
            batch: list[In] = []
            try:
                for item in itertools.islice(items, _BATCH):
                    batch.append(item)
            except UserError as error:  # of drawing an item: those before it are done first
                fault = error
            if not batch:
                break
            waiting.append(pool.submit(_each, function, batch))
            if len(waiting) > 2 * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
        if fault is not None:
            raise fault
    except BrokenProcessPool:
        raise UserError("a worker process was killed, perhaps for want of memory; use fewer --processes") from None
    finally:
        pool.shutdown(cancel_futures=True)
