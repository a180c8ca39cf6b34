"""LMDB stores: read through one environment per process, written whole.

An environment is never carried over a fork. A store under way grows in a hidden folder, and a killed run can go on
where its last commit is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import lmdb

from kdsr_arch.errors import FULL, UserError
from kdsr_arch.io import flush_folder, lock_file, read_json, remove_leftovers, replace_file

_open: dict[str, lmdb.Environment] = {}  # by real path: LMDB allows one environment per store and process
_real: dict[str, str] = {}  # absolute path -> real path of what is open: to find one asks about every folder on the way
_owner = os.getpid()
_opening = threading.Lock()  # two threads that both find a store closed would open it twice
_active = threading.local()  # by real path: the transaction that this thread is in

RECIPE_FILE = "conversion.json"  # how the store was made; stays in it
TEACHER_INFO = "teacher.json"  # of a store of what a teacher made, which holds no frames
_COMMIT_BYTES = 64 << 20
_COMMIT_SECONDS = 2.0  # what a kill may cost
_FIRST_MAP = 1 << 30  # address space, not disk
_STATE = b"\0state"  # progress, in the transaction that it is the progress of; taken out at the end


def close_all() -> None:
    """Close every environment of this process, so that stores can be moved or deleted."""
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
    global _owner, _opening
    if _owner != os.getpid():  # a forked worker: drop the parent's handles, they are not ours to read through
        _opening = threading.Lock()  # a thread of the parent may have held it
        close_all()
        _owner = os.getpid()
    path = _real_path(root)
    with _opening:
        if path not in _open:
            try:
                # Random reads need no read-ahead; without locks a read-only file system works and workers do not meet.
                _open[path] = lmdb.open(path, readonly=True, lock=False, readahead=False, meminit=False)
            except lmdb.Error as error:
                reason = _reason(error)
                forbidden = "ermission denied" in reason
                remedy = "change the permissions of data.mdb and its folder" if forbidden else _remedy(root)
                raise UserError(f"{root}: data.mdb cannot be opened ({reason}); {remedy}") from None
        return _open[path]


def _reason(error: Exception) -> str:
    return str(error).rpartition(": ")[2]


def _remedy(root: Path) -> str:
    teacher = (root / TEACHER_INFO).is_file()
    return "make it again with kdsr cache-teacher" if teacher else "convert the data again"


@contextlib.contextmanager
def reading(root: Path) -> Iterator[lmdb.Transaction]:
    """Begin a read transaction on the store at ``root``; values are memoryviews valid inside the ``with`` only.

    Nested in another of the same store and thread it is that one, so that all values read are of one state.
    """
    path = _real_path(root)
    begun: dict[str, lmdb.Transaction] = _active.__dict__
    if path in begun and _owner == os.getpid():
        yield begun[path]
        return
    with _begin(root) as transaction:
        begun[path] = transaction
        try:
            yield transaction
        finally:
            del begun[path]


def _begin(root: Path) -> lmdb.Transaction:
    environment = _environment(root)
    try:
        return environment.begin(buffers=True)
    except lmdb.MapResizedError:  # it has grown since it was opened
        environment.set_mapsize(0)
        return environment.begin(buffers=True)
    except lmdb.Error as error:
        raise UserError(f"{root}: data.mdb cannot be read ({_reason(error)}); {_remedy(root)}") from None


def unfinished(root: Path) -> Path:
    """Return the folder in which a conversion to ``root`` grows."""
    return root.with_name(f".{root.name}.partial")


def check_lmdb(root: Path) -> None:
    """Raise UserError unless ``root`` is a whole store: a folder with data.mdb, not truncated, and meta_info.txt."""
    if not root.is_dir():
        if unfinished(root).is_dir():
            raise UserError(f"{root}: its conversion is not finished; run the same command again and it goes on")
        raise UserError(f"{root}: the data root does not exist or is not a folder")
    if not (root / "data.mdb").is_file():
        raise UserError(f"{root}: no data.mdb in it, so this is not an LMDB store")
    if (root / TEACHER_INFO).is_file():
        raise UserError(
            f"{root}: holds no frames but what a teacher made of them (kdsr cache-teacher): teacher_cache names it"
        )
    if not (root / "meta_info.txt").is_file():
        raise UserError(
            f"{root}: no meta_info.txt in it, so it is still being written or was broken off; convert again"
        )
    check_values(root)


def check_values(root: Path) -> None:
    """Raise UserError unless a store's data.mdb, of frames or of a teacher's outputs, is there and not truncated."""
    if _size(root / "data.mdb") == 0:
        raise UserError(f"{root}: data.mdb is missing or empty; copy it again, or {_remedy(root)}")
    was_open = _real_path(root) in _open and _owner == os.getpid()
    environment = _environment(root)
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if not was_open:  # nothing stays open until something is read, so that a fork has nothing to inherit
        _open.pop(_real_path(root)).close()
    present = _size(root / "data.mdb")
    if present < needed:  # reading past the end of the map would kill the process
        what = f"data.mdb is truncated ({present} of {needed} bytes)"
        raise UserError(f"{root}: {what}; copy it again, or {_remedy(root)}")


def recipe_of(root: Path) -> dict[str, Any]:
    """Return how a store was made; nothing of one that does not tell (BasicSR's)."""
    file = root / RECIPE_FILE
    return read_json(file, dict, "convert the data again") if file.is_file() else {}


class LmdbWriter:
    """Writes a store: ``with LmdbWriter(path, recipe) as writer: ...; writer.finish({...})``.

    The store grows in the hidden folder ``.NAME.partial`` beside ``path``. Whatever happens, what was committed is
    whole: a later run with the same recipe finds :attr:`state` as it was with the last commit, and goes on from there.
    A UserError or an interrupt commits first; values may be ahead of the state, never behind it. The map size grows by
    itself.

    Args:
        path: ends in ``.lmdb`` and must not exist.
        recipe: what makes the content: JSON values. A folder left by another recipe is refused.

    Attributes:
        state: JSON values that the caller keeps beside the data, empty at the start.
    """

    def __init__(self, path: str | Path, recipe: Mapping[str, Any]) -> None:
        self.path = Path(path)
        if self.path.suffix != ".lmdb":
            raise UserError(f"{path}: the name of an LMDB store must end in .lmdb")
        if os.path.lexists(self.path):
            raise UserError(f"{path}: exists already; remove it or choose another name")
        self.work = unfinished(self.path)
        self.recipe = json.loads(json.dumps(recipe))
        self.state: dict[str, Any] = {}
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_bytes = 0
        self._committed = time.monotonic()
        self._environment: lmdb.Environment | None = None
        self._lock: TextIO | None = None

    def __enter__(self) -> LmdbWriter:
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.work / "writer", "a")  # noqa: SIM115  (held until the end)
            try:
                # Of this process alone: workers that live on for a moment when it is killed do not keep it.
                lock_file(self._lock.fileno())
            except BlockingIOError:
                raise UserError(f"{self.path}: another process is writing it; wait for that one, or stop it") from None
            if os.path.lexists(self.path):  # that other process has just finished
                raise UserError(f"{self.path}: exists already; remove it or choose another name")
            remove_leftovers(self.work)
            self._check_recipe()
            present = _size(self.work / "data.mdb")
            self._environment = lmdb.open(str(self.work), map_size=max(_FIRST_MAP, 2 * present))
            with self._environment.begin() as transaction:
                self.state = json.loads(transaction.get(_STATE, b"{}"))
        except (ValueError, OSError, lmdb.Error, UserError) as error:
            self._close()
            if isinstance(error, UserError):
                raise
            damaged = f"{self.work}: left unfinished, and damaged; remove it and run the command again"
            raise (UserError(damaged) if isinstance(error, ValueError) else self._failure(error)) from None
        return self

    def _check_recipe(self) -> None:
        file = self.work / RECIPE_FILE
        if not file.exists():
            _write_text(file, json.dumps(self.recipe, indent=1, ensure_ascii=False) + "\n")
            return
        known = read_json(file, dict, "remove the folder and run the command again")
        if known != self.recipe:
            differing = sorted(k for k in {*known, *self.recipe} if known.get(k) != self.recipe.get(k))
            changes = "; ".join(f"{k} was {known.get(k)!r}, now {self.recipe.get(k)!r}" for k in differing)
            raise UserError(f"{self.work}: left unfinished by a command of another kind ({changes}); remove it first")

    def _failure(self, error: Exception) -> UserError:
        reason = str(getattr(error, "strerror", None) or error)
        full = isinstance(error, OSError) and error.errno in FULL
        # LMDB reports a write that found room for its first part only as an input/output error.
        if full or any(words in reason for words in ("No space left", "File too large", "Input/output error")):
            kept = f"what is committed stays in {self.work.name}: make room and run the same command again"
            return UserError(f"{self.path}: cannot be written, the disk is full or at fault ({reason}); {kept}")
        return UserError(f"{self.path}: cannot be written ({reason})")

    def put(self, key: bytes, value: bytes) -> None:
        """Take a value; it is on disk after the next commit."""
        self._pending.append((key, value))
        self._pending_bytes += len(value)

    @property
    def is_due(self) -> bool:
        """Return whether enough has gathered for a commit, or the last one is too long ago."""
        return self._pending_bytes >= _COMMIT_BYTES or time.monotonic() - self._committed > _COMMIT_SECONDS

    def commit(self) -> None:
        """Write all values taken since the last commit, and :attr:`state`, to the disk in one step."""
        self._write([*self._pending, (_STATE, json.dumps(self.state).encode())])
        self._pending, self._pending_bytes, self._committed = [], 0, time.monotonic()

    def _write(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        assert self._environment is not None
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in records:
                        if value is None:
                            transaction.delete(key)
                        else:
                            transaction.put(key, value)
                return
            except lmdb.MapFullError:
                self._environment.set_mapsize(self._environment.info()["map_size"] * 2)
            except (lmdb.Error, OSError) as error:
                raise self._failure(error) from None

    def stored(self, keys: Iterable[bytes]) -> Iterator[memoryview | None]:
        """Yield committed values, each valid until the next is asked for; None for a key that is not there."""
        assert self._environment is not None
        with self._environment.begin(buffers=True) as transaction:
            for key in keys:
                yield transaction.get(key)

    def finish(self, files: Mapping[str, str]) -> None:
        """Commit, add text files and give the store its name."""
        try:
            self.commit()
            for name, text in files.items():
                _write_text(self.work / name, text)
            self._write([(_STATE, None)])
            assert self._environment is not None
            needed = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
            self._environment.close()
            self._environment = None
            if _size(self.work / "data.mdb") < needed:  # LMDB may leave out a free last page: looks like truncation
                os.truncate(self.work / "data.mdb", needed)
            if os.name == "nt" and self._lock is not None:
                self._lock.close()  # Windows removes and renames nothing that is open
            (self.work / "writer").unlink()
            os.rename(self.work, self.path)
            flush_folder(self.path.parent)
        except (OSError, lmdb.Error) as error:
            raise self._failure(error) from None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        empty = not self.state
        if self._pending and not empty and isinstance(error, UserError | KeyboardInterrupt):
            with contextlib.suppress(UserError):  # the disk may be what stopped it
                self.commit()
        self._close()
        if empty and self.work.is_dir():
            shutil.rmtree(self.work, ignore_errors=True)  # nothing in it is worth going on from

    def _close(self) -> None:
        if self._environment is not None:
            self._environment.close()
        if self._lock is not None:
            self._lock.close()
        self._environment = self._lock = None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _write_text(path: Path, text: str) -> None:
    replace_file(path, lambda file: file.write(text.encode()))
