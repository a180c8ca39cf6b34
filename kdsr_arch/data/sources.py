"""Where frames come from: one interface over folders of images and LMDB stores."""

from __future__ import annotations

import abc
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from kdsr_arch.data.augment import Crop, cut
from kdsr_arch.data.image_file import PILLOW_STUMBLES, READABLE, UnknownWhite, image_size, passed_over, shown_files
from kdsr_arch.data.inspect_files import inspect_files
from kdsr_arch.data.keys import (
    distinct_names,
    group_clips,
    meta_file,
    natural,
    read_meta_info,
    safe_key,
    stored_key,
    unreadable,
)
from kdsr_arch.data.store.codec import codec_of
from kdsr_arch.data.store.lmdb_store import check_lmdb, reading
from kdsr_arch.data.store.tiled_codec import ListedSize
from kdsr_arch.errors import UserError, nearest, notice
from kdsr_arch.records import available_cores


class FrameSource(abc.ABC):
    """Frames by key. Cheap to construct and safe to send to worker processes: what must not be shared is opened late.

    A key is a relative path without suffix, such as ``000/00000012``; the part before the last slash is the clip.
    """

    name: str  # for messages: the folder or file that the frames come from

    @abc.abstractmethod
    def keys(self) -> list[str]:
        """Return all keys in natural order."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    @abc.abstractmethod
    def size(self, key: str) -> tuple[int, int]:
        """Return (H, W) of a frame, without decoding it where the format allows."""

    @abc.abstractmethod
    def get(self, key: str, crop: Crop | None = None) -> np.ndarray:
        """Return a frame, or its part under ``crop``: (h, w, 3) RGB, uint8 or uint16, not to be written to.

        Raises:
            UserError: the key is unknown, the frame does not decode, or the crop leaves the frame.
        """

    def get_many(self, keys: Sequence[str], crop: Crop | None = None) -> list[np.ndarray]:
        """Return several frames; sources with an opening cost pay it once."""
        return [self.get(key, crop) for key in keys]

    def clips(self) -> dict[str, list[str]]:
        """Return keys by clip, both in natural order. Frames that lie in no folder form the clip ``''``."""
        return group_clips(self.keys())

    def inspect(self, keys: Iterable[str], decode: bool = False) -> None:  # noqa: B027  (frames in memory are sound)
        """Look at many frames at once, so that :meth:`size` knows them, and refuses those that are at fault.

        Args:
            decode: decode each frame, instead of reading its header.
        """

    def where(self, key: str) -> str:
        """Name a frame for messages."""
        return f"{self.name}: '{key}'"

    def stamp(self, key: str) -> str:
        """Return a text that changes when the frame's file does, by which a resumed conversion knows its frames."""
        return key

    def encoded(self, key: str) -> bytes | None:
        """Return the image file or value that a frame is kept as; None where there is no such thing."""
        return None

    def detached(self, key: str) -> FrameSource:
        """Return a source of this frame alone, small enough to be sent to another process."""
        return MemorySource({key: self.get(key)}, self.name)


class FolderSource(FrameSource):
    """A folder of images, or of folders of images (clips), at any depth.

    Args:
        root: the folder. Hidden files and files that are no images are passed over.
        only: subfolders (clips) to look into; None for all.
    """

    def __init__(self, root: str | Path, only: Iterable[str] | None = None) -> None:
        self.root = Path(root)
        self.name = str(root)
        if not self.root.is_dir():
            raise UserError(f"{root}: the data root does not exist or is not a folder")
        folders = [""] if only is None else dict.fromkeys(safe_key(clip, self.name) for clip in only)
        self._files: dict[str, str] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._faults: dict[str, str] = {}
        self._others: list[str] = []  # files that are no images, as far as their names tell
        for folder in folders:
            self._scan(folder, deep=only is None)
        others = passed_over(self._others)
        if not self._files:
            found = f", but {others}" if others else ""
            if (self.root / "data.mdb").is_file():
                found = ", but a store (kdsr lmdb convert makes another of it)"
            raise UserError(f"{root}: no images here ({', '.join(sorted(READABLE))}){found}")
        if others:
            notice(
                f"others {root}", f"{root}: images of other kinds are passed over ({others}); convert them to use them"
            )

    def _scan(self, folder: str, deep: bool) -> None:
        top = self.root / folder
        if not top.is_dir():
            raise UserError(f"{top}: this clip's folder does not exist")
        for path in shown_files(top, deep):
            if path.suffix.lower() not in READABLE:
                self._others.append(path.name)
                continue
            relative = path.relative_to(self.root).as_posix()
            key = relative[: -len(path.suffix)]
            if key in self._files:
                both = f"'{self._files[key]}' and '{relative}'"
                raise UserError(f"{self.name}: {both} are the same key; keep one of them")
            self._files[key] = relative

    def path(self, key: str) -> Path:
        """Return the file behind a key."""
        if key not in self._files:
            raise UserError(f"{self.name}: no image for the key '{key}'{nearest(key, list(self._files)[:5000])}")
        return self.root / self._files[key]

    def keys(self) -> list[str]:
        return sorted(self._files, key=natural)

    def size(self, key: str) -> tuple[int, int]:
        if key in self._faults:
            raise UserError(self._faults[key])
        if key not in self._sizes:
            self._sizes[key] = _look(self.path(key))
        return self._sizes[key]

    def inspect(self, keys: Iterable[str], decode: bool = False) -> None:
        files = {key: self._files[key] for key in keys}
        for key, result in inspect_files(self.root, files, partial(_look, decode=decode), decode).items():
            if isinstance(result, str):
                self._faults[key] = result
            else:
                self._sizes[key] = result

    def get(self, key: str, crop: Crop | None = None) -> np.ndarray:
        data = self.encoded(key)
        return codec_of(data).decode(data, self.where(key), crop)

    def where(self, key: str) -> str:
        return str(self.root / self._files.get(key, key))

    def stamp(self, key: str) -> str:
        try:
            facts = self.path(key).stat()
        except OSError as error:
            raise unreadable(error) from None
        return f"{self._files[key]} {facts.st_size} {facts.st_mtime_ns}"

    def encoded(self, key: str) -> bytes:
        try:
            return self.path(key).read_bytes()
        except OSError as error:
            raise unreadable(error) from None

    def detached(self, key: str) -> FolderSource:
        alone = copy.copy(self)
        alone._files, alone._sizes = {key: self._files[key]}, {}
        return alone


def _look(path: Path, decode: bool = False) -> tuple[int, int]:
    """Return the size (H, W) of an image file, by its header or decoded; raise UserError where it is at fault."""
    try:
        if decode:
            data = path.read_bytes()
            return codec_of(data).verify(data, str(path))
        return image_size(path)
    except UnknownWhite as error:
        raise UserError(f"{path}: {error}") from None
    except PILLOW_STUMBLES as error:
        if isinstance(error, OSError) and error.errno:  # not so where Pillow raises it over what it has read
            raise unreadable(error) from None
        raise UserError(f"{path}: truncated, damaged or not an image; replace or remove it") from None


class LmdbSource(FrameSource):
    """An LMDB store in BasicSR's layout: ``NAME.lmdb/{data.mdb, meta_info.txt}``.

    ``meta_info.txt`` has one line ``key.png (h,w,c) level`` per frame; values are image files or any format in
    :data:`kdsr_arch.data.store.codec.CODECS`. The environment is opened per process, at the first read.

    Args:
        root: the store.
        side: '' for its frames; or the name of a further version of them that is kept beside them under the same
            keys, such as their LR (:func:`side_name`).
    """

    def __init__(self, root: str | Path, side: str = "") -> None:
        self.root = Path(root)
        self.side = side
        self.name = f"{root} ({side})" if side else str(root)
        check_lmdb(self.root)
        if side and side not in self.sides():
            kept = ", ".join(map(repr, self.sides())) or "nothing"
            raise UserError(f"{root}: keeps no {side!r} beside its frames{nearest(side, self.sides())}, but {kept}")
        self._shapes = read_meta_info(self.root / meta_file(side))
        self._faults: dict[str, str] = {}

    def sides(self) -> list[str]:
        """Return the further versions that the store keeps."""
        return sorted(path.name[len("meta_info_") : -len(".txt")] for path in self.root.glob("meta_info_*.txt"))

    def versions(self) -> list[LmdbSource]:
        """Return the store's frames and the further versions of them, each as a source."""
        return [self, *(LmdbSource(self.root, side) for side in self.sides())]

    def keys(self) -> list[str]:
        return sorted(self._shapes, key=natural)

    def size(self, key: str) -> tuple[int, int]:
        self._known(key)
        if key in self._faults:
            raise UserError(self._faults[key])
        return self._shapes[key]

    def inspect(self, keys: Iterable[str], decode: bool = False) -> None:
        keys = list(keys) if decode else []  # the list of the store gives sizes
        with reading(self.root), ThreadPoolExecutor(available_cores()) as pool:  # opened once, for all threads
            found = zip(keys, pool.map(self.fault, keys), strict=True)
            self._faults |= {key: reason for key, reason in found if reason}

    def fault(self, key: str) -> str:
        """Check all that can be checked of a value; say what is wrong with it, or nothing."""
        try:
            for _, data in self.values([key]):
                size, listed = codec_of(data).verify(data, self.where(key)), self._shapes[key]
                if size != listed:
                    return f"{self.where(key)}: is {size[0]}x{size[1]}, listed as {listed[0]}x{listed[1]}"
        except UserError as error:
            return str(error)
        return ""

    def _known(self, key: str) -> None:
        if key not in self._shapes:
            raise UserError(f"{self.name}: no key '{key}' in meta_info.txt{nearest(key, list(self._shapes)[:5000])}")

    def get(self, key: str, crop: Crop | None = None) -> np.ndarray:
        return self.get_many([key], crop)[0]

    def get_many(self, keys: Sequence[str], crop: Crop | None = None) -> list[np.ndarray]:
        """Return several frames from one transaction."""
        file = meta_file(self.side)
        with reading(self.root):
            return [
                codec_of(data).decode(data, self.where(key), crop, ListedSize(self._shapes[key], file))
                for key, data in self.values(keys)
            ]

    def values(self, keys: Iterable[str]) -> Iterator[tuple[str, memoryview]]:
        """Yield keys and stored values, which are valid until the iteration ends."""
        with reading(self.root) as transaction:
            for key in keys:
                self._known(key)
                try:
                    data: Any = transaction.get(stored_key(key, self.side))  # a view, as `reading` asks for buffers
                except lmdb.Error as error:
                    raise UserError(f"{self.where(key)}: data.mdb is damaged ({error}); copy it again") from None
                if data is None:
                    raise UserError(
                        f"{self.name}: the key '{key}' is in {meta_file(self.side)} but not in data.mdb; the store is "
                        "still being written or was broken off: convert it again"
                    )
                yield key, data

    def stamp(self, key: str) -> str:
        facts = (self.root / "data.mdb").stat()
        return f"{key} {self.side} {facts.st_size} {facts.st_mtime_ns}"

    def encoded(self, key: str) -> bytes:
        return next(bytes(data) for _, data in self.values([key]))

    def detached(self, key: str) -> LmdbSource:
        self._known(key)
        alone = copy.copy(self)
        alone._shapes = {key: self._shapes[key]}
        return alone


class WrappedSource(FrameSource):
    """The frames of another source under the same keys, changed or kept in memory."""

    def __init__(self, source: FrameSource) -> None:
        self.source, self.name = source, source.name

    def keys(self) -> list[str]:
        return self.source.keys()

    def where(self, key: str) -> str:
        return self.source.where(key)

    def inspect(self, keys: Iterable[str], decode: bool = False) -> None:
        self.source.inspect(keys, decode)

    def stamp(self, key: str) -> str:
        return self.source.stamp(key)


class MemorySource(FrameSource):
    """Frames that are already arrays: uint8 (H, W, 3) RGB by key."""

    def __init__(self, frames: dict[str, np.ndarray], name: str = "memory") -> None:
        self.name = name
        self._frames = frames

    def keys(self) -> list[str]:
        return sorted(self._frames, key=natural)

    def size(self, key: str) -> tuple[int, int]:
        return self._frames[key].shape[0], self._frames[key].shape[1]

    def get(self, key: str, crop: Crop | None = None) -> np.ndarray:
        return cut(self._frames[key], crop, self.where(key))


class JoinedSource(FrameSource):
    """The frames of several sources, each under the name of its root: ``DIV2K/0001``, ``Flickr2K/000001``.

    Args:
        sources: by name.
    """

    def __init__(self, sources: Mapping[str, FrameSource]) -> None:
        self.sources = dict(sources)
        self.name = " and ".join(source.name for source in sources.values())

    def _part(self, key: str) -> tuple[FrameSource, str]:
        for name, source in self.sources.items():  # a name may hold slashes
            if key.startswith(f"{name}/"):
                return source, key[len(name) + 1 :]
        raise UserError(f"{self.name}: no frame '{key}'; of several data roots, keys begin with the root's name")

    def keys(self) -> list[str]:
        return [f"{name}/{key}" for name, source in self.sources.items() for key in source.keys()]  # noqa: SIM118

    def size(self, key: str) -> tuple[int, int]:
        source, own = self._part(key)
        return source.size(own)

    def get(self, key: str, crop: Crop | None = None) -> np.ndarray:
        source, own = self._part(key)
        return source.get(own, crop)

    def inspect(self, keys: Iterable[str], decode: bool = False) -> None:
        keys = list(keys)
        for name, source in self.sources.items():
            source.inspect([key[len(name) + 1 :] for key in keys if key.startswith(f"{name}/")], decode)

    def where(self, key: str) -> str:
        source, own = self._part(key)
        return source.where(own)

    def stamp(self, key: str) -> str:
        source, own = self._part(key)
        return source.stamp(own)


def open_source(root: str | Path, io_backend: str | None = None, only: Iterable[str] | None = None) -> FrameSource:
    """Open a data root: as LMDB when it is named ``*.lmdb``, holds a data.mdb or ``io_backend`` says so.

    Args:
        only: clips wanted, so that a large folder is not listed whole; ignored by LMDB.
    """
    looks_lmdb = Path(root).suffix == ".lmdb" or (Path(root) / "data.mdb").is_file()
    is_lmdb = io_backend == "lmdb" if io_backend else looks_lmdb
    return LmdbSource(root) if is_lmdb else FolderSource(root, only)


def root_names(roots: Sequence[Path], name: str) -> list[str]:
    """Name data roots, folders and stores alike, so that they can be told apart.

    Args:
        name: of the data set, for messages.

    Raises:
        UserError: one of them is named twice.
    """
    plain = [root.with_suffix("") if root.suffix == ".lmdb" else root for root in roots]
    names = distinct_names(plain)
    twice = next((root for root, label in zip(roots, names, strict=True) if names.count(label) > 1), None)
    if twice is not None:
        raise UserError(f"{name}: the data root {twice} is named twice; dataset_enlarge_ratio or weights repeat data")
    return names


def part_of(clips: Sequence[str] | None, label: str) -> list[str] | None:
    """Return the clips that lie in the root of that name, by their own names; None for all."""
    return None if clips is None else [clip[len(label) + 1 :] for clip in clips if clip.startswith(f"{label}/")]
