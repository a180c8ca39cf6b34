"""Teacher outputs for the training images, stored once: whole maps in float16, read by crops.

A store is an LMDB folder: values ``KEY|ORIENTATION|NAME`` are float16 (C, H, W) arrays as they lie in memory, so that a
crop reads only the pages it touches; ``teacher.json`` beside them says what they are. KEY names an image, or a frame of
a clip with the frames that the teacher saw around it (:mod:`kdsr_arch.data.teacher_views`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError

from kdsr_arch.data.augment import Crop, Flip, apply_flip, flip_number
from kdsr_arch.data.keys import stored_key
from kdsr_arch.data.store.lmdb_store import TEACHER_INFO, check_values, reading, unfinished
from kdsr_arch.data.teacher_views import View
from kdsr_arch.errors import UserError, notice

OUTPUT = "output"
_MOST_BYTES = 511  # of a key in LMDB
_ROUNDING = 0.1  # mean difference of 8-bit values by which LR images are taken for the same

_Side = Annotated[int, Field(ge=0, lt=1 << 31)]
_Count = Annotated[int, Field(ge=1, lt=1 << 31)]
_Size = Annotated[list[_Side], Field(min_length=2, max_length=2)]
_Place = Annotated[list[_Side], Field(min_length=4, max_length=4)]


class _Maps(BaseModel, strict=True, extra="allow"):
    ratio: _Count
    channels: _Count
    pooled: _Count = 1


class _Info(BaseModel, strict=True, extra="allow"):
    """What ``teacher.json`` must say; checked when a store is opened, so that nothing later is surprised."""

    scale: _Count
    images: dict[str, _Size]
    names: dict[str, _Maps]
    orientations: Annotated[list[Annotated[int, Field(ge=0, lt=8)]], Field(min_length=1)]
    crops: dict[str, Annotated[list[_Place], Field(min_length=1)]] | None = None
    num_frame: _Count = 1
    run: _Side = 0
    backwards: bool = False
    pixels: dict[str, list[_Side]] | None = None


def _read_info(folder: Path) -> dict[str, Any]:
    """The content of a store's ``teacher.json``; raises UserError where it is missing or not of the form."""
    path = folder / TEACHER_INFO
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _Info.model_validate(content)
    except (OSError, ValueError, RecursionError) as error:  # pydantic's faults and undecodable text are ValueErrors
        if not path.exists() and unfinished(folder).is_dir():
            again = "run the same kdsr cache-teacher again and it goes on"
            raise UserError(f"{folder}: is not finished; {again}") from None
        faults = error.errors() if isinstance(error, ValidationError) else []
        places = sorted({".".join(map(str, fault["loc"])) for fault in faults})[:3]
        where = f" ({TEACHER_INFO}: {', '.join(places)})" if any(places) else ""
        raise UserError(f"{folder}: no store of teacher outputs; make it with kdsr cache-teacher{where}") from None
    return content


class TeacherStore:
    """Reads crops of stored teacher outputs and taps.

    Args:
        path: the store.

    Attributes:
        info: what ``teacher.json`` says: scale, names (per name: channels, size relative to the LR image, and over how
            many pixels, squared, the teacher's map was averaged), orientations, crops, num_frame (of teachers of
            windows), run (of recurrent ones: the frames restored at once), backwards, teacher, dtype.
        images: LR size of each image, or of each clip.
        crops: places (top, left, height, width) in each that the teacher was run on; empty where it was run on wholes.

    Raises:
        UserError: there is no store, or it is not whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.info: dict[str, Any] = _read_info(self.path)
        check_values(self.path)
        self.images: dict[str, list[int]] = self.info["images"]
        self.names: dict[str, dict[str, Any]] = self.info["names"]
        self.orientations: list[int] = self.info["orientations"]
        self.crops: dict[str, list[list[int]]] = self.info.get("crops") or {}
        self.num_frame, self.run = int(self.info.get("num_frame", 1)), int(self.info.get("run", 0))
        self.backwards = bool(self.info.get("backwards"))

    def check(self, scale: int, sizes: Mapping[str, tuple[int, int]], flips: list[int], patch: int) -> None:
        """Raise UserError unless the store fits a data set.

        Args:
            scale: the data set's.
            sizes: LR size of each image or clip.
            flips: numbers of the flips that are drawn.
            patch: side of a crop in LR pixels.
        """
        if self.info["scale"] != scale:
            raise UserError(f"{self.path}: made for scale {self.info['scale']}, but the data set's scale is {scale}")
        for key, size in sizes.items():
            if key not in self.images:
                raise UserError(f"{self.path}: holds nothing of image '{key}'; make it again with kdsr cache-teacher")
            if list(size) != self.images[key]:
                before = "x".join(map(str, self.images[key]))
                raise UserError(
                    f"{self.path}: image '{key}' was {before} when it was stored, and is {size[0]}x{size[1]}"
                )
        if not set(flips) <= set(self.orientations):
            self._check_turning()
        sides = {side for crops in self.crops.values() for crop in crops for side in crop[2:]}
        for side in sides - {patch}:
            raise UserError(f"{self.path}: holds crops of {side} LR pixels, but gt_size gives crops of {patch}")

    def _check_turning(self) -> None:
        """Raise UserError unless it was asked for that what is stored of the image as it lies is turned with it.

        A store that turns with its frames turns with time as well; only a self-ensemble's does so exactly.
        """
        if len(self.orientations) == 1 and self.info.get("self_ensemble"):
            return
        if len(self.orientations) == 1 and "backwards" not in self.info:  # an earlier version did not note it
            sentence = f"{self.path}: holds one orientation; flipped samples get the turned output, which is not exact"
            notice(f"turned {self.path}", f"{sentence} (kdsr cache-teacher makes a store of all of them)")
            return
        if len(self.orientations) > 1 or self.backwards:
            raise UserError(
                f"{self.path}: lacks orientations that use_hflip and use_rot draw; make it again by kdsr cache-teacher "
                "with them, or with --one-orientation, which turns the output of one"
            )

    def check_pixels(self, known: Container[str], read: Callable[[str], np.ndarray]) -> None:
        """Raise UserError unless the LR images are those that the teacher saw, by a few of them.

        Args:
            known: keys of the LR images or frames that there are.
            read: reads one, (h, w, 3) as the store's maker did.
        """
        for key, before in (self.info.get("pixels") or {}).items():
            if key not in known:
                continue
            image = read(key)
            now, levels = pixel_sample(image), np.iinfo(image.dtype).max / 255
            # other processors may round a pixel in a thousand to the neighboring value
            if len(now) != len(before) or np.abs(np.subtract(now, before)).mean() > _ROUNDING * levels:
                raise UserError(
                    f"{self.path}: the LR image '{key}' is another than the teacher saw: degradation, "
                    "dataroot_lq or the file has changed; make it again with kdsr cache-teacher"
                )

    def check_views(self, views: Iterable[View]) -> None:
        """Raise UserError unless everything that training draws is there."""
        with reading(self.path) as transaction:
            for view in views:
                crop = self.crops[view.group][0] if self.crops else None
                key = view.keys[0]
                if transaction.get(_value_key(key, 0, OUTPUT, crop)) is None:
                    raise UserError(
                        f"{self.path}: holds nothing of frames '{key}'; interval_list, clip_length or the clips are "
                        "others than when it was made: make it again with kdsr cache-teacher"
                    )

    def keep(self, names: Iterable[str]) -> None:
        """Read these names only from now on: taps that no term compares would cost time and memory at each sample."""
        wanted = set(names)
        self.names = {name: maps for name, maps in self.names.items() if name in wanted}

    def read_clip(self, name: str, keys: Iterable[str], crop: Crop | None, flip: Flip) -> dict[str, torch.Tensor]:
        """Read what the teacher made of each ground-truth frame of a sample, in the sample's order.

        Args:
            name: the clip.
            keys: what the N frames are stored under.
            crop, flip: see :meth:`read`.

        Returns:
            name -> (N, C, H, W) float16.
        """
        frames = [self.read(key, crop, flip, name) for key in keys]
        return {tap: torch.stack([maps[tap] for maps in frames]) for tap in self.names}

    def read(self, key: str, crop: Crop | None, flip: Flip, group: str | None = None) -> dict[str, torch.Tensor]:
        """Read every map, of those kept, under an LR crop of an image, flipped as the image is.

        Args:
            key: the image, or the frame of the clip ``group``.
            crop: one of :attr:`crops`, where there are any; None for the whole image.

        Returns:
            name -> (C, H, W) float16.
        """
        number = flip_number(flip) if flip_number(flip) in self.orientations else 0
        place = crop if self.crops else None
        height, width = place[2:] if place else self.images[group or key]
        inside = Crop(0, 0, height, width) if place or not crop else crop
        tensors = {}
        with reading(self.path) as transaction:
            for name, form in self.names.items():
                maps = self._maps(transaction.get(_value_key(key, number, name, place)), key, name, (height, width))
                y, x, h, w = inside.scaled(form["ratio"])
                tensors[name] = torch.from_numpy(np.array(apply_flip(maps[:, y : y + h, x : x + w], flip), order="C"))
        return tensors

    def whole(self, key: str, number: int) -> dict[str, np.ndarray]:
        """Read every map, of those kept, of a whole image as it lies: name -> (C, H, W) float16.

        Args:
            number: the orientation that the teacher was run on, one of :attr:`orientations`.
        """
        height, width = self.images[key]
        with reading(self.path) as transaction:
            values = {name: transaction.get(_value_key(key, number, name, None)) for name in self.names}
            return {name: self._maps(value, key, name, (height, width)).copy() for name, value in values.items()}

    def _maps(self, value: Any, key: str, name: str, size: tuple[int, int]) -> np.ndarray:
        """Shape a value as the (C, H, W) that it should hold for an LR image of a size."""
        ratio, channels = self.names[name]["ratio"], self.names[name]["channels"]
        if value is None or len(value) != 2 * channels * size[0] * size[1] * ratio * ratio:
            raise UserError(f"{self.path}: '{name}' of image '{key}' is missing or damaged; make the store again")
        return np.frombuffer(value, np.float16).reshape(channels, size[0] * ratio, size[1] * ratio)


def pixel_sample(image: np.ndarray) -> list[int]:
    """Return pixels (h, w, 3) on a grid of at most 16 x 16, of which the first and last row and column are part."""
    rows, columns = (np.linspace(0, side - 1, min(side, 16)).astype(int) for side in image.shape[:2])
    return [int(value) for value in image[np.ix_(rows, columns)].ravel()]


def stored_maps(
    key: str, number: int, name: str, maps: np.ndarray, crop: Sequence[int] | None = None
) -> tuple[bytes, bytes]:
    """Make the key and the value that hold (C, H, W) of one orientation of an image, as float16.

    Args:
        number: the orientation; the maps are already turned back to the image's own, so that reading is the same for
            all orientations.
        crop: where only a crop of the image was restored: its place (top, left, height, width).
    """
    return _value_key(key, number, name, crop), np.ascontiguousarray(maps, np.float16).tobytes()


def check_key(key: str, names: Iterable[str], crop: Sequence[int] | None, where: str) -> None:
    """Raise UserError where no store can hold all of `names` under a key.

    Args:
        crop: a place with as many digits as any has; None for whole images.
        where: the image or frame, for the message.
    """
    try:
        stored_key(key)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    count = len(_value_key(key, 0, max(names, key=len), crop))
    if count > _MOST_BYTES:
        raise UserError(
            f"{where}: its name takes {count} bytes in the store, of {_MOST_BYTES} that are possible; shorten it, or "
            "those of its folders"
        )


def _value_key(key: str, number: int, name: str, crop: Sequence[int] | None) -> bytes:
    place = "@" + ",".join(map(str, crop)) if crop else ""
    return stored_key(f"{key}{place}|{number}|{name}")
