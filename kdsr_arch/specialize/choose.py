"""Which frames to teach on: spread over the scenes, sharp, and as different from each other as there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from kdsr_arch.data.augment import window_sums
from kdsr_arch.specialize.frames import Frame

LEAST_FRAMES = 5
WINDOW_PIXELS = 1 << 16
"""Larger frames are taught by a window of so many LR pixels: a teacher takes too long on whole ones, and too much
memory."""

_THUMBNAIL = 32, 18  # width and height
_CUT = 0.08  # mean difference of two thumbnails at a scene cut, at least
_CUT_FACTOR = 4.0  # and so many times what it is inside the scene
_FLAT = 1.5 / 255  # standard deviation of a thumbnail that shows nothing
_HELD_OUT = 5  # one frame of so many


@dataclass
class Candidate:
    """A frame that may be taught on.

    Attributes:
        number, where: see `Frame`.
        scene: counted from 0.
        sharpness: mean absolute Laplacian of the luma.
        thumbnail: of the whole frame, flattened, in [0, 1].
        clip: the frame and its neighbors on either side, under the window: (h, w, 3) uint8 RGB each.
        box: where the window lies: top and left.
    """

    number: int
    where: str
    scene: int
    sharpness: float
    thumbnail: NDArray[np.float32]
    clip: list[NDArray[np.uint8]]
    box: tuple[int, int] = (0, 0)


def candidates(frames: Iterable[Frame], limit: int, radius: int, scale: int) -> tuple[list[Candidate], int, int]:
    """Keep the sharpest frame of each stretch of a scene, from one reading.

    The stretches grow as the input turns out longer, so that nothing need be known of its length. Frames that show
    nothing (black ones) are passed over.

    Args:
        frames: the input.
        limit: candidates at most.
        radius: neighbors to keep on either side.
        scale: sides of windows are multiples of it.

    Returns:
        The candidates in order, the number of frames read, and that of scenes.
    """
    stretches, count, scenes = _Stretches(limit), 0, 0
    for candidate in _with_neighbors(frames, radius, scale):
        count, scenes = count + 1, candidate.scene + 1
        if candidate.thumbnail.std() > _FLAT:
            stretches.add(candidate)
    return stretches.kept, count, scenes


class _Stretches:
    """The sharpest frame of each stretch of so many frames, no stretch over a cut."""

    def __init__(self, limit: int) -> None:
        self.limit, self.length, self.kept = limit, 1, list[Candidate]()
        self._filled = 0

    def add(self, new: Candidate) -> None:
        """Take the next frame into the stretch that goes on, or begin one with it."""
        if self.kept and self._filled < self.length and self.kept[-1].scene == new.scene:
            self.kept[-1] = _sharper(self.kept[-1], new)
            self._filled += 1
            return
        self.kept.append(new)
        self._filled = 1
        if len(self.kept) > self.limit:
            self._join(across=len({one.scene for one in self.kept}) > 0.75 * self.limit)

    def _join(self, across: bool) -> None:
        """Make one of every two neighbors of a scene; of any two where there are more scenes than frames to keep."""
        joined, free = list[Candidate](), False
        for one in self.kept:
            if free and (across or joined[-1].scene == one.scene):
                joined[-1], free = _sharper(joined[-1], one), False
            else:
                joined.append(one)
                free = True
        self._filled += 0 if free else self.length  # of the last stretch, which goes on
        self.kept, self.length = joined, 2 * self.length


def _sharper(one: Candidate, other: Candidate) -> Candidate:
    return other if other.sharpness > one.sharpness else one


def _with_neighbors(frames: Iterable[Frame], radius: int, scale: int) -> Iterator[Candidate]:
    """Make a candidate of each frame once its neighbors are read; beyond a cut or a gap the last frame is repeated."""
    around = deque[_Seen]()  # up to `radius` frames before the center, and after
    center = 0
    for seen in _scenes(frames):
        around.append(seen)
        if len(around) - center > radius:
            yield _candidate(around, center, radius, scale)
            center += 1
            if center > radius:
                around.popleft()
                center -= 1
    for rest in range(center, len(around)):
        yield _candidate(around, rest, radius, scale)


class _Seen(NamedTuple):
    """A frame with its thumbnail, its scene, and the piece of it that was read without a gap; both counted from 0."""

    frame: Frame
    thumbnail: NDArray[np.float32]
    scene: int
    piece: int


def _scenes(frames: Iterable[Frame]) -> Iterator[_Seen]:
    """Tell each frame's thumbnail, scene and piece."""
    scene, piece, usual = 0, 0, 0.0
    before: tuple[Frame, NDArray[np.float32]] | None = None
    for frame in frames:
        small = cv2.resize(frame.image, _THUMBNAIL, interpolation=cv2.INTER_AREA)
        thumbnail = (small.ravel() / 255).astype(np.float32)
        if before is not None:
            change = float(np.abs(thumbnail - before[1]).mean())
            parted = frame.part != before[0].part or frame.image.shape != before[0].image.shape
            follows = frame.number == before[0].number + 1
            if parted or change > max(_CUT, _CUT_FACTOR * usual):
                scene, piece, usual = scene + 1, piece + 1, 0.0
            elif follows:
                usual = 0.9 * usual + 0.1 * change
            else:
                piece += 1
        before = (frame, thumbnail)
        yield _Seen(frame, thumbnail, scene, piece)


def _candidate(around: Sequence[_Seen], center: int, radius: int, scale: int) -> Candidate:
    frame, thumbnail, scene, piece = around[center]
    gray = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
    detail = np.abs(cv2.Laplacian(gray, cv2.CV_32F))
    top, left, height, width = _window(detail, scale, frame.number)
    clip: list[NDArray[np.uint8]] = []
    for place in range(center - radius, center + radius + 1):
        inside = [i for i in range(min(place, center), max(place, center) + 1) if 0 <= i < len(around)]
        same = [i for i in inside if around[i].piece == piece]
        image = around[same[0] if place < center else same[-1]].frame.image
        clip.append(image[top : top + height, left : left + width].copy())
    return Candidate(frame.number, frame.where, scene, float(detail.mean()), thumbnail, clip, (top, left))


def _window(detail: NDArray[np.float32], scale: int, seed: int) -> tuple[int, int, int, int]:
    """Draw where a frame is cut: anywhere, the likelier the more detail there is."""
    rows, columns = detail.shape
    height = rows if rows * columns <= WINDOW_PIXELS else min(rows, 256)
    width = min(columns, WINDOW_PIXELS // height)
    height, width = (side // scale * scale if side >= scale else side for side in (height, width))
    if rows - height < scale and columns - width < scale:
        return 0, 0, height, width
    tops, lefts = (np.unique(np.linspace(0, free, 9).astype(int)) for free in (rows - height, columns - width))
    grid = window_sums(detail, height, width)[np.ix_(tops, lefts)]
    chosen = np.random.default_rng(seed).choice(grid.size, p=grid.ravel() / grid.sum() if grid.sum() > 0 else None)
    return int(tops[chosen // len(lefts)]), int(lefts[chosen % len(lefts)]), height, width


def choose(found: Sequence[Candidate], count: int) -> tuple[list[Candidate], list[Candidate]]:
    """Choose frames that differ most, sharp ones first, and hold out a fifth of them.

    Returns:
        Those to teach on and those held out, each in order.
    """
    order = farthest_first(
        np.stack([one.thumbnail for one in found]), np.array([one.sharpness for one in found]), count
    )
    held = {number for place, number in enumerate(order) if place % _HELD_OUT == _HELD_OUT // 2}
    chosen = sorted(order)
    return [found[n] for n in chosen if n not in held], [found[n] for n in chosen if n in held]


def farthest_first(points: NDArray, sharpness: NDArray, count: int) -> list[int]:
    """Choose points one by one, each the farthest from those chosen before; a blurred one counts as half as far.

    Args:
        points: (n, d).
        sharpness: (n,).
        count: how many, n at most.
    """
    weight = 0.5 + 0.5 * sharpness.argsort().argsort() / max(len(sharpness) - 1, 1)
    first = int(np.argmin(np.abs(points - points.mean(0)).mean(1)))
    order, distance = [first], np.full(len(points), np.inf)
    while len(order) < min(count, len(points)):
        distance = np.minimum(distance, np.abs(points - points[order[-1]]).mean(1))
        distance[order[-1]] = -1.0  # chosen
        order.append(int(np.argmax(np.where(distance < 0, -1.0, distance * weight))))
    return order
