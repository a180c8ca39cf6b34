"""Files that are whole or absent: written aside, flushed to the disk, then renamed; read as data, never as code."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from kdsr_arch.errors import UserError

# the ways in which zipfile, the unpickler and torch stumble over bytes that are no checkpoint
_STUMBLES = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(OverflowError, MemoryError, struct.error, zipfile.BadZipFile),
)


def why_not_written(error: OSError) -> str:
    """A few words on a failed write, and what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the disk; free some, or lower logger.keep_last"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there"
    return error.strerror or str(error)


def flush_folder(folder: Path) -> None:
    """Put a folder's list of names on the disk, so that a rename in it outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill `path` so that at any moment the old file or the new one is there, never a part.

    Raises:
        UserError: the disk is full or not writable; the old file, if any, is untouched and nothing is left beside it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(aside, path)
        flush_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({why_not_written(error)})") from None
    except RuntimeError as error:  # torch's zip writer reports a failed write of the file beneath it so
        raise UserError(f"{path}: cannot be written ({error.__context__ or 'the disk may be full'})") from None
    finally:
        aside.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the parts that a killed `write_whole` left aside."""
    for part in folder.glob(".*.tmp"):
        part.unlink(missing_ok=True)


def save_tensors(obj: Any, path: Path) -> None:
    """Write tensors and plain containers with torch.save, whole or not at all."""
    write_whole(path, lambda handle: torch.save(obj, handle))


def _is_sound(path: Path) -> bool:
    """False for a zip file with a damaged member (torch.load itself does not compare checksums), or with packed or
    overlapping ones: torch.save writes neither, and what they unpack to may have any size."""
    if not zipfile.is_zipfile(path):
        return True
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
        return stored and sum(part.file_size for part in parts) <= path.stat().st_size and archive.testzip() is None


def read_json(path: Path, kind: type, mend: str) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        kind: what it must be: dict or list.
        mend: what to do when it is not, for the message.

    Raises:
        UserError: missing, not readable, no JSON, or something else than `kind`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {mend}") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, kind):
        raise UserError(f"{path}: damaged, or no such file as it should be; {mend}")
    return content


def load_tensors(path: Path, what: str = "checkpoint") -> Any:
    """Read a file of torch.save, or one ending in .safetensors, as data, onto the CPU.

    Args:
        path: the file.
        what: what it should be, for messages.

    Raises:
        UserError: missing, empty, truncated, damaged, not such a file, or holding other objects than tensors and
            plain containers.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such {what}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if path.suffix.lower() == ".safetensors":
        from kdsr_arch.safe_file import read_groups

        return read_groups(path)
    try:
        if _is_sound(path):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "GLOBAL" in str(error):
            raise UserError(f"{path}: holds objects other than tensors; not loaded, as they may run code") from None
    except _STUMBLES:
        pass
    raise UserError(f"{path}: truncated, damaged or no {what}; copy or download it again")
