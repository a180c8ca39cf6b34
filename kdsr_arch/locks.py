"""One process at a time on an output, and what an earlier one wrote there moved aside."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdsr_arch.errors import UserError
from kdsr_arch.io import lock_file

STAMP = "%Y%m%d_%H%M%S"


@contextmanager
def claimed(target: Path, busy: str, keep: bool = False) -> Iterator[None]:
    """Lock a file or folder that is to be written, for this process.

    The kernel owns the lock, so it ends with the process however that ends: a crash cannot leave it stuck. It is a
    POSIX record lock, which forked data-loading workers do not inherit, so that a killed run's orphans do not hold
    it. The lock file lies beside the target (`.NAME.lock`), so that archiving a folder does not carry it away. Missing
    folders above the target are made, and go again where nothing was put into them.

    Args:
        target: need not exist.
        busy: what another process does that holds it, and what to do: 'is training here; stop it first'.
        keep: leave the lock file there.

    Raises:
        UserError: another living process holds it, or the parent folder cannot be written.
    """
    place = target.parent.resolve() / f".{target.name}.lock"
    made = [folder for folder in (place.parent, *place.parent.parents) if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(place, f"{target}: {{}} {busy}")
    except OSError as error:
        raise UserError(f"{target.parent}: cannot be written ({error.strerror or error})") from None
    try:
        with suppress(OSError):  # a full disk; the lock holds all the same, it only names nobody
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        if not keep:
            with suppress(OSError):  # Windows removes no open file
                place.unlink()
        os.close(handle)
        with suppress(OSError):  # at the first that is not empty
            for folder in made:
                folder.rmdir()


def _locked(place: Path, refusal: str) -> int:
    """Open and lock a lock file; one that its holder removed meanwhile locks nobody out, and is opened anew."""
    while True:
        handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock_file(handle)
        except BlockingIOError:
            owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise UserError(refusal.format(owner)) from None
        except OSError:  # a file system without locks
            return handle
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle), os.stat(place)):
                return handle
        os.close(handle)


def archive(folder: Path, stamp: str | None = None) -> None:
    """Rename the folder of an earlier run to `NAME_archived_TIME`, as BasicSR does, so that nothing overwrites it.

    Where the folder is a link to another disk, it is renamed there, and the link leads to a new one.

    Args:
        folder: where there is none, or an empty one, nothing happens.
        stamp: the time in the name; now by default.

    Raises:
        OSError: it cannot be renamed.
    """
    place = folder.resolve()
    if place.exists() and not (place.is_dir() and next(place.iterdir(), None) is None):
        target = unused(place.with_name(f"{place.name}_archived_{stamp or time.strftime(STAMP)}"))
        os.rename(place, target)
        if folder.is_symlink():
            place.mkdir()
        logging.getLogger("kdsr").info(f"{folder} exists: it was renamed to {target.name}")


def unused(path: Path) -> Path:
    """Return the path, or the first of PATH_2, PATH_3, ... that is not there."""
    names = (path.name, *(f"{path.name}_{n}" for n in range(2, 1000)))
    return next(each for each in map(path.with_name, names) if not each.exists())
