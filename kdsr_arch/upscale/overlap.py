"""Three stages at once: reading ahead in one thread, the network in the caller's, writing behind in another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")
_END: Any = object()


def _one_thread(name: str) -> ThreadPoolExecutor:
    """A thread whose own computations take one core: the cores belong to the network."""
    return ThreadPoolExecutor(1, name, torch.set_num_threads, (1,))


@contextmanager
def read_ahead(source: Iterable[T], depth: int = 8) -> Iterator[Iterator[T]]:
    """Iterate ``source`` in a thread, at most ``depth`` items ahead; leaving the context ends the thread.

    What ``source`` raises comes after its items.
    """
    pool = _one_thread("read")
    try:
        yield _drawn(pool, iter(source), depth)
    finally:
        pool.shutdown(cancel_futures=True)


def _drawn(pool: ThreadPoolExecutor, items: Iterator[T], depth: int) -> Iterator[T]:
    ahead = deque(pool.submit(next, items, _END) for _ in range(depth))
    while (item := ahead.popleft().result()) is not _END:
        ahead.append(pool.submit(next, items, _END))
        yield item


class WriteBehind(Generic[T]):
    """Calls ``function`` on items in a thread, in order; after an error on no further ones.

    Leaving the context waits for all items, or drops those that wait where it is left by an error.
    """

    def __init__(self, function: Callable[[T], None], depth: int = 8) -> None:
        self._function, self._depth = function, depth
        self._behind: deque[Future] = deque()
        self._failed = False

    def __enter__(self) -> WriteBehind[T]:
        self._pool = _one_thread("write")
        return self

    def _call(self, item: T) -> None:
        if self._failed:
            return
        try:
            self._function(item)
        except BaseException:
            self._failed = True
            raise

    def put(self, item: T) -> None:
        """Hand one item over; waits where the thread is far behind.

        Raises:
            whatever ``function`` raised on an earlier item.
        """
        self._behind.append(self._pool.submit(self._call, item))
        while self._behind and (len(self._behind) > self._depth or self._behind[0].done()):
            self._behind.popleft().result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        while kind is None and self._behind:
            self._behind.popleft().result()
