"""The folder beside the student: the frames chosen, what the teacher made of them, the option file, the experiment."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kdsr_arch.errors import UserError
from kdsr_arch.infer.pixels import write_png
from kdsr_arch.io import read_json, remove_leftovers, write_bytes
from kdsr_arch.records import strict_json
from kdsr_arch.report.compare_data import read_image
from kdsr_arch.specialize.choose import Candidate

_AGAIN = "remove the folder to begin anew"


class WorkFolder:
    """Where a student is taught; whatever is in it already is gone on from.

    ``frames/lq`` and ``frames/teacher`` hold the pairs to train on, ``frames/difference`` how far the student is from
    the teacher; ``held_out/lq`` and ``held_out/gt`` those to validate on: ``teacher/N`` is a frame and what the teacher
    made of it, ``zoom/N`` the frame reduced once more and the frame itself.

    Args:
        root: the folder.
        settings: what its content depends on.
        overwrite: begin anew where the student was finished, or begun with other settings.
        reuse: go on from a finished student of these settings all the same.

    Raises:
        UserError: the teacher has worked there for a command of other settings; or the folder cannot be made.
    """

    def __init__(self, root: Path, settings: Mapping[str, Any], overwrite: bool = False, reuse: bool = False) -> None:
        self.root, self.frames, self.held_out = root, root / "frames", root / "held_out"
        self.option_file, self.start = root / "options" / "train.yml", root / "start.pth"
        self._plan, self._state, file = root / "plan.json", root / "state.json", root / "settings.json"
        wanted = json.loads(json.dumps(settings, default=str))
        if file.is_file():
            known = read_json(file, dict, _AGAIN)
            differing = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
            cheap = differing and not self._has_labels()  # a command that was refused left it
            if cheap or (overwrite and (differing or (self._is_finished() and not reuse))):
                shutil.rmtree(root)
                write_bytes(file, strict_json(wanted).encode())
            elif differing:
                raise UserError(
                    f"{root}: was begun with other settings ({', '.join(differing)}); give those again to go on, say "
                    "--overwrite to begin anew, or choose another output"
                )
        elif root.is_dir() and any(root.iterdir()):
            raise UserError(f"{root}: is in the way: the student's frames and experiment go there; move it away")
        else:
            write_bytes(file, strict_json(wanted).encode())
        self.state: dict[str, Any] = read_json(self._state, dict, _AGAIN) if self._state.is_file() else {}

    def _has_labels(self) -> bool:
        folders = (self.frames / "teacher", self.held_out / "gt" / "teacher")
        return self.option_file.is_file() or any(folder.is_dir() and any(folder.iterdir()) for folder in folders)

    def _is_finished(self) -> bool:
        return self._state.is_file() and bool(read_json(self._state, dict, _AGAIN).get("finished"))

    @property
    def plan(self) -> dict[str, Any] | None:
        """What was chosen, once all of it is stored: frames, looked_at, scenes."""
        return read_json(self._plan, dict, _AGAIN) if self._plan.is_file() else None

    def keep(self, **values: Any) -> None:
        """Remember values for the next run."""
        self.state |= values
        write_bytes(self._state, strict_json(self.state).encode())

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the seconds that the block takes to those of earlier runs, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            with suppress(UserError):  # a full disk is told by what met it first
                self.keep(seconds=self.state.get("seconds", 0.0) + time.monotonic() - began)

    def store(self, taught: Sequence[Candidate], held_out: Sequence[Candidate], **about: Any) -> None:
        """Write the chosen frames with their neighbors, then the plan that says they are all there."""
        chosen = [(one, place) for place, part in (("frames", taught), ("held_out", held_out)) for one in part]
        for one, place in chosen:
            radius = len(one.clip) // 2
            for offset, image in enumerate(one.clip, -radius):
                path = self.lq(one.number, place == "held_out") if not offset else self._neighbor(one.number, offset)
                write_png(path, image[..., ::-1])
        frames = [
            {
                "number": one.number, "where": one.where, "scene": one.scene, "box": list(one.box),
                "radius": len(one.clip) // 2, "held_out": place == "held_out",
            }
            for one, place in chosen
        ]  # fmt: skip
        write_bytes(self._plan, strict_json({"frames": frames, **about}).encode())

    def lq(self, number: int, held_out: bool) -> Path:
        """Return the file of a chosen frame."""
        return (self.held_out / "lq" / "teacher" if held_out else self.frames / "lq") / _name(number)

    def teachers(self, number: int, held_out: bool) -> Path:
        """Return the file of what the teacher made of it."""
        return (self.held_out / "gt" / "teacher" if held_out else self.frames / "teacher") / _name(number)

    def zoom(self, number: int) -> tuple[Path, Path]:
        """Return the files of a held-out frame reduced once more, and of the frame as its truth."""
        return self.held_out / "lq" / "zoom" / _name(number), self.held_out / "gt" / "zoom" / _name(number)

    def difference(self, number: int) -> Path:
        """Return the file that says how far the student is from the teacher where."""
        return self.frames / "difference" / _name(number)

    def _neighbor(self, number: int, offset: int) -> Path:
        return self.root / "neighbors" / f"{number:07d}{offset:+d}.png"

    def clip(self, frame: Mapping[str, Any]) -> list[NDArray[np.uint8]]:
        """Read a chosen frame and its neighbors: (h, w, 3) RGB each."""
        number, radius = int(frame["number"]), int(frame["radius"])
        paths = [self._neighbor(number, i) if i else self.lq(number, frame["held_out"]) for i in _around(radius)]
        return [read_rgb(path) for path in paths]

    def tidy(self) -> None:
        """Remove parts of files that a killed run left."""
        for folder in (path for path in self.root.rglob("*") if path.is_dir()):
            remove_leftovers(folder)


def _around(radius: int) -> range:
    return range(-radius, radius + 1)


def _name(number: int) -> str:
    return f"{number:07d}.png"


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read an image as (h, w, 3) RGB."""
    return cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
