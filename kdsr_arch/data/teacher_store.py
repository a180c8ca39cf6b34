"""What a teacher made of the training images, stored once: whole maps in float16, read by crops.

A store is an LMDB folder: values ``KEY|ORIENTATION|NAME`` are float16 (C, H, W) arrays as they lie in memory, so that a
crop reads only the pages it touches; ``teacher.json`` beside them says what they are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch

from kdsr_arch.data.augment import Flip
from kdsr_arch.data.lmdb_env import reading
from kdsr_arch.errors import UserError

__all__ = [
    "INFO", "OUTPUT", "TeacherStore", "TeacherStoreWriter", "apply_flip", "drawn", "flip_of", "orientation",
    "undo_flip",
]  # fmt: skip

INFO = "teacher.json"
OUTPUT = "output"


def orientation(flip: Flip) -> int:
    """The number, 0 to 7, of a symmetry of the square."""
    return sum(bool(on) << place for place, on in enumerate(flip))


def flip_of(number: int) -> Flip:
    """The inverse of :func:`orientation`."""
    return bool(number & 1), bool(number & 2), bool(number & 4)


def drawn(use_hflip: bool, use_rot: bool) -> list[int]:
    """The orientations that augmentation draws from."""
    return [n for n in range(8) if (use_hflip or not n & 1) and (use_rot or not n & 6)]


def undo_flip(maps: Any, flip: Flip) -> Any:
    """The inverse of :func:`apply_flip`."""
    horizontal, vertical, transposed = flip
    if transposed:
        maps = maps.transpose(-1, -2) if isinstance(maps, torch.Tensor) else maps.swapaxes(-1, -2)
    return apply_flip(maps, (horizontal, vertical, False))


def apply_flip(maps: Any, flip: Flip) -> Any:
    """Arrays or tensors (..., H, W): left to right, then top to bottom, then transposed, as images are augmented."""
    horizontal, vertical, transposed = flip
    axes = [axis for axis, on in ((-1, horizontal), (-2, vertical)) if on]
    if isinstance(maps, torch.Tensor):
        maps = maps.flip(axes) if axes else maps
        return maps.transpose(-1, -2) if transposed else maps
    maps = np.flip(maps, tuple(axes)) if axes else maps
    return maps.swapaxes(-1, -2) if transposed else maps


class TeacherStore:
    """Reads crops of stored teacher outputs and taps.

    Args:
        path: the store.

    Attributes:
        info: what ``teacher.json`` says: scale, names (per name: channels and size relative to the LR image),
            orientations, windows, teacher, dtype.

    Raises:
        UserError: it is none, or not whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        try:
            self.info: dict[str, Any] = json.loads((self.path / INFO).read_text(encoding="utf-8"))
            self.images: dict[str, list[int]] = self.info["images"]
            self.names: dict[str, dict[str, Any]] = self.info["names"]
        except (OSError, ValueError, KeyError):
            raise UserError(f"{self.path}: no store of teacher outputs; make it with kdsr cache-teacher") from None
        self.orientations: list[int] = self.info["orientations"]
        self.windows: dict[str, list[list[int]]] = self.info.get("windows") or {}

    def check(self, scale: int, sizes: Mapping[str, tuple[int, int]], flips: list[int]) -> None:
        """Raises UserError unless every image is there with its LR size, and every orientation that is drawn."""
        if self.info["scale"] != scale:
            raise UserError(f"{self.path}: made for scale {self.info['scale']}, but the data set's scale is {scale}")
        for key, size in sizes.items():
            if key not in self.images:
                raise UserError(f"{self.path}: holds nothing of image '{key}'; make it again with kdsr cache-teacher")
            if list(size) != self.images[key]:
                held = "x".join(map(str, self.images[key]))
                raise UserError(f"{self.path}: image '{key}' was {held} when it was stored, and is {size[0]}x{size[1]}")
        missing = set(flips) - set(self.orientations) if len(self.orientations) > 1 else set()
        if missing:
            raise UserError(
                f"{self.path}: lacks orientations that use_hflip and use_rot draw; make it again with "
                "kdsr cache-teacher"
            )

    def check_patch(self, patch: int) -> None:
        """Raises UserError where the store holds windows of another side than ``patch`` LR pixels."""
        for windows in self.windows.values():
            if any(patch != side for window in windows for side in window[2:]):
                held = windows[0][2]
                raise UserError(f"{self.path}: holds windows of {held} LR pixels, but gt_size gives crops of {patch}")

    def read(self, key: str, window: tuple[int, int, int, int] | None, flip: Flip) -> dict[str, torch.Tensor]:
        """Every stored map under an LR window (top, left, height, width) of an image, turned as the image is.

        Returns:
            name -> (C, H, W) float16.
        """
        height, width = self.images[key]
        window = window or (0, 0, height, width)
        stored = orientation(flip) in self.orientations
        number = orientation(flip) if stored else 0
        with reading(self.path) as transaction:
            return {name: self._crop(transaction, key, number, name, window, flip) for name in self.names}

    def _crop(self, transaction: lmdb.Transaction, key: str, number: int, name: str, window: tuple[int, int, int, int],
              flip: Flip) -> torch.Tensor:  # fmt: skip
        ratio, channels = self.names[name]["ratio"], self.names[name]["channels"]
        place = _window_name(window) if self.windows else ""
        height, width = window[2:] if self.windows else self.images[key]
        top, left = (0, 0) if self.windows else window[:2]
        value = transaction.get(_value_key(key, number, name, place))
        if value is None or len(value) != 2 * channels * height * width * ratio * ratio:
            raise UserError(f"{self.path}: '{name}' of image '{key}' is missing or damaged; make the store again")
        whole = np.frombuffer(value, np.float16).reshape(channels, height * ratio, width * ratio)
        rows, columns = (slice(s * ratio, (s + n) * ratio) for s, n in ((top, window[2]), (left, window[3])))
        return torch.from_numpy(np.array(apply_flip(whole[:, rows, columns], flip), order="C"))


def _value_key(key: str, number: int, name: str, place: str = "") -> bytes:
    return f"{key}{place}|{number}|{name}".encode()


def _window_name(window: tuple[int, ...]) -> str:
    return "@" + ",".join(map(str, window))


class TeacherStoreWriter:
    """``with TeacherStoreWriter(path) as writer`` makes ``path`` whole at the end, or leaves nothing.

    Maps are stored turned back (see ``put``), so that reading one is the same for all orientations.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix != ".lmdb":
            raise UserError(f"{path}: the name of a store must end in .lmdb")
        if self.path.exists():
            raise UserError(f"{path}: exists already; remove it or choose another name")
        self._work = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self.bytes = 0
        self.info: dict[str, Any] = {}

    def __enter__(self) -> TeacherStoreWriter:
        try:
            self._work.mkdir(parents=True)
            self._environment = lmdb.open(str(self._work), map_size=256 << 20, sync=False)
        except (OSError, lmdb.Error) as error:
            raise UserError(f"{self.path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
        return self

    def put(self, key: str, number: int, name: str, maps: np.ndarray, window: tuple[int, ...] | None = None) -> None:
        """Stores (C, H, W) of one orientation of an image, already turned back to the image's own, as float16.

        Args:
            window: where only a window of the image was restored: its place (top, left, height, width).
        """
        value = np.ascontiguousarray(maps, np.float16).tobytes()
        where = _value_key(key, number, name, _window_name(window) if window else "")
        self.bytes += len(value)
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    transaction.put(where, value)
                return
            except lmdb.MapFullError:
                self._environment.set_mapsize(self._environment.info()["map_size"] * 2 + 2 * len(value))
            except (lmdb.Error, OSError) as error:
                raise UserError(f"{self.path}: cannot be written ({error})") from None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._environment.sync(True)
            self._environment.close()
            if kind is None:
                (self._work / INFO).write_text(json.dumps(self.info), encoding="utf-8")
                os.rename(self._work, self.path)
        except (OSError, lmdb.Error) as error:
            raise UserError(f"{self.path}: cannot be written ({error})") from None
        finally:
            shutil.rmtree(self._work, ignore_errors=True)
