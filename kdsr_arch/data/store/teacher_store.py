"""What a teacher made of the training images, stored once: whole maps in float16, read by crops.

A store is an LMDB folder: values ``KEY|ORIENTATION|NAME`` are float16 (C, H, W) arrays as they lie in memory, so that a
crop reads only the pages it touches; ``teacher.json`` beside them says what they are. KEY names an image, or a window
of a clip's frames (:func:`~kdsr_arch.data.store.teacher_store.view_key`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import lmdb
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdsr_arch.data.augment import Crop, Flip, apply_flip, flip_number
from kdsr_arch.data.store.lmdb_store import reading, unfinished
from kdsr_arch.errors import UserError


@dataclass(frozen=True)
class View:
    """One thing that a teacher is run on.

    Attributes:
        key: what its outputs are stored under.
        frames: keys of its LR frames in order; one for a teacher of images.
        group: the image or clip whose size and stored windows it shares.
    """

    key: str
    frames: tuple[str, ...]
    group: str


def view_key(center: str, places: Sequence[int]) -> str:
    """The name of a window of frames: that of its center frame, and where the others are from there.

    A window at a clip's end, of another interval or played backwards has other places, and so a name of its own.

    Args:
        center: HR key of the frame in the middle.
        places: positions of the window's frames in the clip.
    """
    middle = places[len(places) // 2]
    return center if len(places) == 1 else f"{center}~{','.join(str(place - middle) for place in places)}"


def centered(places: Sequence[int], middle: int, num_frame: int) -> Sequence[int]:
    """The ``num_frame`` of some places around number ``middle``."""
    half = num_frame // 2
    return places[middle - half : middle + half + 1]


_Side = Annotated[int, Field(ge=0, lt=1 << 31)]
_Count = Annotated[int, Field(ge=1, lt=1 << 31)]
_Size = Annotated[list[_Side], Field(min_length=2, max_length=2)]
_Place = Annotated[list[_Side], Field(min_length=4, max_length=4)]


class _Info(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Maps(_Info):
    ratio: _Count
    channels: _Count


class TeacherInfo(_Info):
    """``teacher.json`` (:class:`~kdsr_arch.data.store.teacher_store.TeacherStore`)."""

    scale: _Count
    images: dict[str, _Size]
    names: dict[str, _Maps]
    orientations: Annotated[list[Annotated[int, Field(ge=0, lt=8)]], Field(min_length=1)]
    windows: dict[str, Annotated[list[_Place], Field(min_length=1)]] | None = None
    num_frame: _Count = 1
    backwards: bool = False


def read_info(path: Path, form: type[_Info], told: str) -> dict[str, Any]:
    """The content of such a file, as it stands there.

    Raises:
        UserError: missing, not readable, or not of that form; `told` is the message.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        form.model_validate(content)
    except (OSError, ValueError, RecursionError) as error:  # pydantic's faults and undecodable text are ValueErrors
        faults = error.errors() if isinstance(error, ValidationError) else []
        places = sorted({".".join(map(str, fault["loc"])) for fault in faults})[:3]
        raise UserError(told + (f" ({path.name}: {', '.join(places)})" if any(places) else "")) from None
    return content


INFO = "teacher.json"
OUTPUT = "output"


class TeacherStore:
    """Reads crops of stored teacher outputs and taps.

    Args:
        path: the store.

    Attributes:
        info: what ``teacher.json`` says: scale, names (per name: channels and size relative to the LR image),
            orientations, windows, num_frame and backwards (of teachers of windows), teacher, dtype.
        images: LR size of each image, or of each clip.

    Raises:
        UserError: it is none, or not whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        told = f"{self.path}: no store of teacher outputs; make it with kdsr cache-teacher"
        if not (self.path / INFO).exists() and unfinished(self.path).is_dir():
            told = f"{self.path}: is not finished; run the same kdsr cache-teacher again and it goes on"
        self.info: dict[str, Any] = read_info(self.path / INFO, TeacherInfo, told)
        self.images: dict[str, list[int]] = self.info["images"]
        self.names: dict[str, dict[str, Any]] = self.info["names"]
        self.orientations: list[int] = self.info["orientations"]
        self.windows: dict[str, list[list[int]]] = self.info.get("windows") or {}
        self.num_frame, self.backwards = int(self.info.get("num_frame", 1)), bool(self.info.get("backwards"))

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

    def check_views(self, views: Iterable[View]) -> None:
        """Raises UserError unless every window of frames that training draws is there."""
        with reading(self.path) as transaction:
            for view in views:
                place = _window_name(self.windows[view.group][0]) if self.windows else ""
                if transaction.get(_value_key(view.key, 0, OUTPUT, place)) is None:
                    raise UserError(
                        f"{self.path}: holds nothing of frames '{view.key}'; interval_list, clip_length or the clips "
                        "are others than when it was made: make it again with kdsr cache-teacher"
                    )

    def keep(self, names: Iterable[str]) -> None:
        """Read these names only from now on: taps that no term compares would cost time and memory at each sample."""
        wanted = set(names)
        self.names = {name: told for name, told in self.names.items() if name in wanted}

    def window(self, rng: np.random.Generator, group: str) -> Crop | None:
        """One of the windows that the teacher was run on, where it was run on windows."""
        if not self.windows:
            return None
        held = self.windows[group]
        return Crop(*held[int(rng.integers(len(held)))])

    def read_clip(
        self,
        name: str,
        keys: Mapping[int, str],
        gt_places: Sequence[int],
        lq_places: Sequence[int],
        window: tuple[int, int, int, int] | None,
        flip: Flip,
    ) -> dict[str, torch.Tensor]:
        """What the teacher made of each ground-truth frame of a sample, in the sample's order.

        Args:
            name: the clip.
            keys: of its HR frames, by position.
            gt_places, lq_places: positions of the sample's N HR frames and of the LR frames around them.

        Returns:
            name -> (N, C, H, W) float16.
        """
        half, made = (len(lq_places) - len(gt_places)) // 2, []
        for number, place in enumerate(gt_places):
            frames = centered(lq_places, half + number, self.num_frame)
            if not self.backwards and frames[-1] < frames[0]:
                frames = frames[::-1]
            made.append(self.read(view_key(keys[place], frames), window, flip, name))
        return {tap: torch.stack([maps[tap] for maps in made]) for tap in self.names}

    def read(self, key: str, window: tuple[int, int, int, int] | None, flip: Flip,
             group: str | None = None) -> dict[str, torch.Tensor]:  # fmt: skip
        """Every map, of those kept, under an LR window (top, left, height, width) of an image, turned as the image is.

        Args:
            key: the image, or the window of frames (:func:`view_key`), then of the clip ``group``.

        Returns:
            name -> (C, H, W) float16.
        """
        size = self.images[group or key]
        window = window or (0, 0, size[0], size[1])
        number = flip_number(flip) if flip_number(flip) in self.orientations else 0
        with reading(self.path) as transaction:
            return {name: self._crop(transaction, key, number, name, window, flip, size) for name in self.names}

    def _crop(self, transaction: lmdb.Transaction, key: str, number: int, name: str, window: tuple[int, int, int, int],
              flip: Flip, size: Sequence[int]) -> torch.Tensor:  # fmt: skip
        ratio, channels = self.names[name]["ratio"], self.names[name]["channels"]
        place = _window_name(window) if self.windows else ""
        height, width = window[2:] if self.windows else size
        top, left = (0, 0) if self.windows else window[:2]
        value = transaction.get(_value_key(key, number, name, place))
        if value is None or len(value) != 2 * channels * height * width * ratio * ratio:
            raise UserError(f"{self.path}: '{name}' of image '{key}' is missing or damaged; make the store again")
        whole = np.frombuffer(value, np.float16).reshape(channels, height * ratio, width * ratio)
        rows, columns = (slice(s * ratio, (s + n) * ratio) for s, n in ((top, window[2]), (left, window[3])))
        return torch.from_numpy(np.array(apply_flip(whole[:, rows, columns], flip), order="C"))


def stored_maps(
    key: str, number: int, name: str, maps: np.ndarray, window: Sequence[int] | None = None
) -> tuple[bytes, bytes]:
    """The key and the value that hold (C, H, W) of one orientation of an image, as float16.

    Args:
        number: the orientation; the maps are already turned back to the image's own, so that reading is the same for
            all orientations.
        window: where only a window of the image was restored: its place (top, left, height, width).
    """
    place = _window_name(window) if window else ""
    return _value_key(key, number, name, place), np.ascontiguousarray(maps, np.float16).tobytes()


def _value_key(key: str, number: int, name: str, place: str = "") -> bytes:
    return f"{key}{place}|{number}|{name}".encode()


def _window_name(window: Sequence[int]) -> str:
    return "@" + ",".join(map(str, window))
