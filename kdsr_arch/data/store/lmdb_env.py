"""Opening LMDB environments: once per process and store, never carried over a fork."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb

from kdsr_arch.errors import UserError

__all__ = ["check_lmdb", "close_all", "reading", "unfinished"]

_open: dict[str, lmdb.Environment] = {}  # by real path: LMDB allows one environment per store and process
_real: dict[str, str] = {}  # absolute path -> real path of what is open: to find one asks about every folder on the way
_owner = os.getpid()
_active = threading.local()  # by real path: the transaction that this thread is in


def close_all() -> None:
    """Closes every environment of this process, so that stores can be moved or deleted."""
    for environment in _open.values():
        environment.close()
    _open.clear()
    _real.clear()


def _real_path(root: Path) -> str:
    where = os.path.join(os.getcwd(), root)
    if where in _real:
        return _real[where]
    path = os.path.realpath(where)
    if path in _open:
        _real[where] = path
    return path


def _environment(root: Path) -> lmdb.Environment:
    global _owner
    if _owner != os.getpid():  # a forked worker: drop the parent's handles, they are not ours to read through
        close_all()
        _owner = os.getpid()
    path = _real_path(root)
    if path not in _open:
        try:
            # Random reads need no read-ahead; without locks a read-only file system works and workers do not meet.
            _open[path] = lmdb.open(path, readonly=True, lock=False, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise UserError(f"{root}: data.mdb cannot be opened ({_reason(error)}); convert the data again") from None
    return _open[path]


def _reason(error: Exception) -> str:
    return str(error).rpartition(": ")[2]


@contextlib.contextmanager
def reading(root: Path) -> Iterator[lmdb.Transaction]:
    """A read transaction on the store at ``root``; values are memoryviews valid inside the ``with`` only.

    Nested in another of the same store and thread it is that one, so that what is read together is of one state.
    """
    path = _real_path(root)
    held: dict[str, lmdb.Transaction] = _active.__dict__
    if path in held and _owner == os.getpid():
        yield held[path]
        return
    with _begin(root) as transaction:
        held[path] = transaction
        try:
            yield transaction
        finally:
            del held[path]


def _begin(root: Path) -> lmdb.Transaction:
    environment = _environment(root)
    try:
        return environment.begin(buffers=True)
    except lmdb.MapResizedError:  # it has grown since it was opened
        environment.set_mapsize(0)
        return environment.begin(buffers=True)
    except lmdb.Error as error:
        raise UserError(f"{root}: data.mdb cannot be read ({_reason(error)}); convert the data again") from None


def unfinished(root: Path) -> Path:
    """The folder in which a conversion to ``root`` grows."""
    return root.with_name(f".{root.name}.partial")


def check_lmdb(root: Path) -> None:
    """Raises UserError unless ``root`` is a whole store: a folder with data.mdb, not truncated, and meta_info.txt."""
    if not root.is_dir():
        if unfinished(root).is_dir():
            raise UserError(f"{root}: its conversion is not finished; run the same command again and it goes on")
        raise UserError(f"{root}: the data root does not exist or is not a folder")
    if not (root / "data.mdb").is_file():
        raise UserError(f"{root}: no data.mdb in it, so this is not an LMDB store")
    if not (root / "meta_info.txt").is_file():
        raise UserError(
            f"{root}: no meta_info.txt in it, so it is still being written or was broken off; convert again"
        )
    if (root / "data.mdb").stat().st_size == 0:
        raise UserError(f"{root}: data.mdb is empty; copy or convert it again")
    was_open = _real_path(root) in _open and _owner == os.getpid()
    environment = _environment(root)
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if not was_open:  # nothing stays open until something is read, so that a fork has nothing to inherit
        _open.pop(_real_path(root)).close()
    present = (root / "data.mdb").stat().st_size
    if present < needed:  # reading past the end of the map would kill the process
        raise UserError(f"{root}: data.mdb is truncated ({present} of {needed} bytes); copy or convert it again")
