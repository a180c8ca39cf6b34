"""One training process per experiment folder."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from kdsr_arch.errors import UserError


class FolderLock:
    """Holds an experiment folder for this process until released.

    The kernel owns the lock, so it ends with the process however that ends: a crash cannot leave it stuck. It is a
    POSIX record lock, which forked data-loading workers do not inherit, so that a killed run's orphans do not hold
    it. The lock file lies beside the folder (`.NAME.lock`), so that archiving the folder does not carry it away, and
    is never deleted: removing it while another process waits on it would let two hold it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder.with_name(f".{folder.name}.lock")
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            UserError: another living process holds it, or the parent folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"{self.path.parent}: cannot create the experiment folder here ({error.strerror})"
            ) from None
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise UserError(
                f"{self.folder}: {owner} is training here; stop it first, or give this run another 'name'"
            ) from None
        with suppress(OSError):  # a full disk; the lock holds all the same, it only names nobody
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._handle = handle

    def release(self) -> None:
        """Give the lock back; harmless when not held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
