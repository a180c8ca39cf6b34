"""Three stages at once: reading ahead in one thread, the network in the caller's, writing behind in another."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")
_END: Any = object()
_PATIENCE = 0.1  # seconds between looks at whether the other side has given up


class _Worker(Generic[T]):
    """A thread with a bounded queue; what it raises is raised in the caller."""

    def __init__(self, depth: int, name: str) -> None:
        self._queue: queue.Queue = queue.Queue(depth)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def _guarded(self) -> None:
        torch.set_num_threads(1)  # of this thread: the cores belong to the network
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  handed to the caller, whatever it is
            self._error = error
            self._stop.set()

    def _run(self) -> None:
        raise NotImplementedError

    def _put(self, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_PATIENCE)
                return True
            except queue.Full:
                continue
        return False

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


class ReadAhead(_Worker[T]):
    """Iterates ``source`` in a thread, at most ``depth`` items ahead. A context manager: leaving it ends the thread."""

    def __init__(self, source: Iterable[T], depth: int = 8) -> None:
        super().__init__(depth, "read")
        self._source = source

    def _run(self) -> None:
        for item in self._source:
            if not self._put(item):
                return
        self._put(_END)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._items()

    def _items(self) -> Iterator[T]:
        while True:
            try:
                item = self._queue.get(timeout=_PATIENCE)
            except queue.Empty:
                if not self._thread.is_alive() and self._queue.empty():
                    self._check()
                    return
                continue
            if item is _END:
                return
            yield item

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class WriteBehind(_Worker[T]):
    """Calls ``function`` on items in a thread, in order. Leaving the context waits for all, unless by an error."""

    def __init__(self, function: Callable[[T], None], depth: int = 8) -> None:
        super().__init__(depth, "write")
        self._function = function

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if item is _END:
                return
            self._function(item)

    def __enter__(self) -> WriteBehind[T]:
        self._thread.start()
        return self

    def put(self, item: T) -> None:
        """Hand one item over; waits where the thread is far behind.

        Raises:
            whatever ``function`` raised on an earlier item.
        """
        self._put(item)
        self._check()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._put(_END)
        else:
            self._stop.set()
        self._thread.join()
        if kind is None:
            self._check()
