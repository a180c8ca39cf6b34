"""The loader's processes: how they start, what they report, how their death is noticed, how they end."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, queues
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

from torch.utils.data import DataLoader, default_collate

from kdsr_arch.errors import Lost, ProgramFault, UserError
from kdsr_arch.signals import become_worker, held_back

_FEWER = "lower datasets.train.num_worker_per_gpu or batch_size_per_gpu"
_MORE_SHARED = f"{_FEWER}, or give the container more (--shm-size)"
_CAUSES = {
    "SIGKILL": f"most likely because the memory is used up: {_FEWER}, or set cache to false",
    "SIGBUS": f"most likely because the shared memory is full: {_MORE_SHARED}; or because a store was cut off or "
    "replaced while it was read",
    "SIGSEGV": "in native code that the data set calls, such as an image decoder: set num_worker_per_gpu to 0 to see "
    "where, with python -X faulthandler",
}
_abandoned: list[Any] = []  # iterators one of whose processes died: ending them properly might wait for ever


# ----------------------------------------------------------------------------------------------------- in the process


@dataclass(frozen=True)
class Failure:
    """Why a batch cannot be made, on its way from a worker, where DataLoader would make a traceback of it.

    Attributes:
        message: one sentence.
        trace: the traceback of an exception that no data set should raise; empty for bad data.
    """

    message: str
    trace: str = ""

    @classmethod
    def of(cls, error: BaseException, what: str) -> Failure:
        """Make one of what was caught; `what` went wrong is said only of an unforeseen error."""
        if isinstance(error, UserError):
            return cls(str(error))
        if "shared memory" in str(error):
            return cls(f"the shared memory of the loader processes (/dev/shm) is full: {_MORE_SHARED}")
        fault = ProgramFault.of(error, what)
        return cls(str(fault), fault.trace)

    def error(self) -> UserError:
        """Return what the training shall raise."""
        return ProgramFault(self.message, self.trace) if self.trace else UserError(self.message)


def collate(samples: list[Any]) -> Any:
    """Join samples to a batch; to the first failure among them, or to one that says why they make no batch."""
    failures = [sample for sample in samples if isinstance(sample, Failure)]
    try:
        return failures[0] if failures else default_collate(samples)
    except Exception as error:
        return Failure.of(error, f"{len(samples)} sample(s) make no batch{_differing(samples)}: ")


def _differing(samples: list[Any]) -> str:
    """Name what cannot be joined in samples that do not make a batch, and its shapes or kinds."""
    for key in samples[0] if all(isinstance(sample, Mapping) for sample in samples) else ():
        values = [sample.get(key) for sample in samples]
        forms = {"x".join(map(str, getattr(value, "shape", ()))) or type(value).__name__ for value in values}
        try:
            default_collate(values)
        except Exception:
            return f", '{key}' being {', '.join(sorted(forms))}"
    return ""


def start_worker(number: int) -> None:
    """Call in each process before its first batch."""
    become_worker(needed_to_save=True)
    for name in ("SIGBUS", "SIGSEGV", "SIGFPE"):
        if hasattr(signal, name):  # Windows has no SIGBUS
            signal.signal(getattr(signal, name), signal.SIG_DFL)  # torch's handlers print a line; the parent tells it
    queues.Queue._on_queue_feeder_error = _send_failure  # type: ignore[attr-defined]


def _send_failure(queue: queues.Queue, error: Exception, item: Any) -> None:
    """Send word of a batch that cannot be sent: multiprocessing drops it, and the training would wait for ever."""
    queue.put((item[0], Failure.of(error, "a batch cannot be handed to the training: ")))


# ------------------------------------------------------------------------------------------------------ in the parent


class Watched(Iterator[Any]):
    """The batches of a loader, whose processes are watched while it is waited for, and gone once it is closed.

    Raises:
        Lost: a process died.
    """

    def __init__(self, loader: DataLoader) -> None:
        before = multiprocessing.active_children()
        with held_back(), _sigchld(None):  # torch's handler would raise wherever the training is, within a save as well
            self._held = [iter(loader)]
        self._processes = [child for child in multiprocessing.active_children() if child not in before]
        # at the end of the program, before its queues close (10) and multiprocessing waits for its children, which
        # ignore the SIGTERM that it sends
        self.close = Finalize(self, _end, (self._held, self._processes), exitpriority=20)

    def __next__(self) -> Any:
        with _sigchld(self._raise_if_dead):
            try:
                self._raise_if_dead()
                return next(self._held[0])
            except StopIteration:
                raise
            except Exception:
                _abandoned.extend(self._held)
                ended = connection.wait([process.sentinel for process in self._processes], 0.5)
                for process in self._processes:
                    if process.sentinel in ended:
                        process.join()  # its files are closed a moment before it has ended
                self._raise_if_dead(any_end=True)
                raise

    def _raise_if_dead(self, *_: Any, any_end: bool = False) -> None:
        for process in self._processes:
            code = process.exitcode
            if code or (any_end and code is not None):
                count = len(self._processes)
                who = "the loader process" if count == 1 else f"one of the {count} loader processes"
                raise Lost(f"{who} {_manner_of_death(code)}")


def _manner_of_death(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}, which no data set should cause; set num_worker_per_gpu to 0 to see why"
    name = signal.Signals(-code).name
    return f"died ({name}), {_CAUSES.get(name, 'sent from outside this program')}"


def _end(held: list[Any], processes: list[BaseProcess]) -> None:
    if any(process.exitcode for process in processes):
        _abandoned.extend(held)
    held.clear()  # else the only reference: with the iterator, its processes end
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def _sigchld(handler: Any) -> Iterator[None]:
    """Set the handler of a child's death (None: none of ours), and at the end the one before."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
