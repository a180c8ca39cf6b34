"""Writing LMDB stores in BasicSR's layout: all or nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType

import lmdb
import numpy as np

from kdsr_arch.data.codec import Codec, ImageFileCodec
from kdsr_arch.data.keys import safe_key
from kdsr_arch.errors import UserError

__all__ = ["LmdbWriter"]

_COMMIT_BYTES = 64 << 20
_FIRST_MAP = 256 << 20


class LmdbWriter:
    """``with LmdbWriter(path) as writer: writer.put(key, frame)`` makes ``path`` whole at the end, or not at all.

    The store grows in a folder beside ``path`` and takes its name when everything is on disk; its map size grows by
    itself. Any error inside the ``with`` removes what was written.

    Args:
        path: ends in ``.lmdb`` and must not exist.
        codec: how frames become values.
    """

    def __init__(self, path: str | Path, codec: Codec | None = None) -> None:
        self.path = Path(path)
        if self.path.suffix != ".lmdb":
            raise UserError(f"{path}: the name of an LMDB store must end in .lmdb")
        if self.path.exists():
            raise UserError(f"{path}: exists already; remove it or choose another name")
        self.codec: Codec = codec or ImageFileCodec()
        self._work = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._lines: list[str] = []
        self._keys: set[str] = set()
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_bytes = 0

    def __enter__(self) -> LmdbWriter:
        try:
            self._work.mkdir(parents=True)
            self._environment = lmdb.open(str(self._work), map_size=_FIRST_MAP, sync=False)
        except (OSError, lmdb.Error) as error:
            raise self._failure(error) from None
        return self

    def _failure(self, error: Exception) -> UserError:
        return UserError(f"{self.path}: cannot be written ({getattr(error, 'strerror', None) or error})")

    def put(self, key: str, frame: np.ndarray, origin: str = "") -> None:
        """Stores a uint8 (H, W, 3) RGB frame. ``origin`` is the file it comes from, for messages."""
        self.put_encoded(key, self.codec.encode(frame), frame.shape[:2], origin)

    def put_encoded(self, key: str, value: bytes, size: tuple[int, ...], origin: str = "") -> None:
        """Stores a value that the codec has encoded; ``size`` is the frame's (H, W)."""
        safe_key(key, origin or str(self.path))
        if key in self._keys:
            raise UserError(f"{origin or self.path}: the key '{key}' comes twice; file names must differ")
        if len(key.encode()) > 511:
            raise UserError(f"{origin or self.path}: the key '{key}' is longer than LMDB's 511 bytes")
        self._keys.add(key)
        level = getattr(self.codec, "compress_level", 0)
        self._lines.append(f"{key}.png ({size[0]},{size[1]},3) {level}\n")
        self._pending.append((key.encode(), value))
        self._pending_bytes += len(value)
        if self._pending_bytes >= _COMMIT_BYTES:
            self._commit()

    def _commit(self) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in self._pending:
                        transaction.put(key, value)
                break
            except lmdb.MapFullError:
                self._environment.set_mapsize(self._environment.info()["map_size"] * 2)
            except (lmdb.Error, OSError) as error:
                raise self._failure(error) from None
        self._pending, self._pending_bytes = [], 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except (OSError, lmdb.Error) as failure:
            raise self._failure(failure) from None
        finally:
            self._environment.close()
            shutil.rmtree(self._work, ignore_errors=True)

    def _finish(self) -> None:
        if not self._lines:
            raise UserError(f"{self.path}: nothing to write, no frames were found")
        self._commit()
        self._environment.sync(True)
        needed = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
        self._environment.close()
        data = self._work / "data.mdb"
        if data.stat().st_size < needed:  # LMDB may leave out a free last page; readers take that for truncation
            os.truncate(data, needed)
        with open(self._work / "meta_info.txt", "w", encoding="utf-8") as file:
            file.writelines(self._lines)
            file.flush()
            os.fsync(file.fileno())
        os.rename(self._work, self.path)
