"""Motions of a camera before photographs: where each pixel of each frame of a clip looks in its photograph.

A motion is a homography for each frame, from the frame's pixels to the photograph's. All is known exactly, so is the
optical flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.data.augment import Crop
from kdsr_arch.errors import UserError

Matrices = NDArray[np.float64]
_BORDER = 6  # photograph pixels kept around what is sampled: 4 of the interpolation, one of rounding, one to spare
_LEAST_DEPTH = 0.5  # beside that of the frame's middle; at 0 a tilted frame sees its horizon
_REACH = 2.0  # of the filter against aliasing, in pixels of the frame
_AXES = ((1, 0), (0, 1))


@dataclass(frozen=True)
class Camera:
    """How a camera moves; every clip draws a motion within these bounds.

    Attributes:
        shift: largest steady speed in HR pixels a frame; slow ones are more frequent (a third is below an eighth).
        zoom: largest change of size a frame, as a part.
        rotation: largest angle a frame, in degrees.
        tilt: largest perspective change a frame: how much the size changes at the frame's edge, as a part.
        shake: standard deviation of a hand's trembling, as a part of the speed.
        parallax: part of the clips that have a second photograph before the first, which moves relative to it.
        density: [low, high] of the pixels of a photograph for one of a frame, to draw from. 1.5 and more keep a frame
            as sharp at any sub-pixel position; a smaller photograph is never enlarged, the motion is made smaller.
    """

    shift: float = 8.0
    zoom: float = 0.02
    rotation: float = 1.0
    tilt: float = 0.005
    shake: float = 0.1
    parallax: float = 0.5
    density: Sequence[float] = (2.0, 3.0)

    def __post_init__(self) -> None:
        low, high = self.density
        if not 1 <= low <= high:
            raise UserError(f"camera: density {list(self.density)} must be two numbers, 1 or more, the smaller first")
        for field in fields(self):
            if field.name != "density" and getattr(self, field.name) < 0:
                raise UserError(f"camera: {field.name} must not be negative, got {getattr(self, field.name)}")

    def needed(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the least height and width of a photograph for frames of ``size`` (H, W), without any motion."""
        height, width = (int(np.ceil(self.density[0] * (side - 1 + 2 * _REACH))) + 2 * _BORDER + 1 for side in size)
        return height, width


class Path(NamedTuple):
    """A motion before one photograph.

    Attributes:
        photo: number of the photograph.
        matrices: (T, 3, 3), from a frame's (x, y, 1) to the photograph's, in pixels.
        area: what the photograph is read of.
        scale: pixels of the photograph for one of a frame, where they are most.
    """

    photo: int
    matrices: Matrices
    area: Crop
    scale: float


def project(matrix: Matrices, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Map positions by a homography (3, 3): of a frame, a row of x and a column of y."""
    across, down, depth = (row[0] * x + (row[1] * y + row[2]) for row in matrix)
    return across / depth, down / depth


@dataclass(frozen=True)
class Motion:
    """A motion over time, relative to the frame's middle and to the clip's middle: (T, 2), (T), (T), (T, 2)."""

    shift: NDArray
    zoom: NDArray
    angle: NDArray
    tilt: NDArray

    def weaker(self, part: float) -> Motion:
        """Return the motion at ``part`` of its strength."""
        return replace(self, **{field.name: part * getattr(self, field.name) for field in fields(self)})

    def with_other(self, other: Motion) -> Motion:
        """Return both motions together."""
        return Motion(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def matrices(self) -> Matrices:
        """Return what it does to positions around the frame's middle, (T, 3, 3)."""
        size, cosine, sine = np.exp(self.zoom), np.cos(self.angle), np.sin(self.angle)
        turn = np.zeros((len(size), 3, 3))
        turn[:, 0, 0] = turn[:, 1, 1] = size * cosine
        turn[:, 0, 1], turn[:, 1, 0] = -size * sine, size * sine
        turn[:, :2, 2], turn[:, 2, 2] = self.shift, 1
        lean = np.broadcast_to(np.eye(3), turn.shape).copy()
        lean[:, 2, :2] = self.tilt
        return turn @ lean


def draw_motion(rng: np.random.Generator, frames: int, size: tuple[int, int], camera: Camera) -> Motion:
    """Draw a motion: a shift that trembles and slowly speeds up or turns; zoom, angle and tilt half the time each.

    Args:
        size: (H, W) of the frames.
    """
    time = np.arange(frames) - (frames - 1) / 2
    speed, direction = camera.shift * rng.random() ** 2, rng.uniform(0, 2 * np.pi)
    velocity = speed * np.array([np.cos(direction), np.sin(direction)])
    bend = rng.normal(0, 0.05 * speed, 2)
    shift = velocity * time[:, None] + bend * time[:, None] ** 2 / 2
    shift += rng.normal(0, 1, shift.shape) * camera.shake * speed
    rates = rng.uniform(-1, 1, 4) * (rng.random(4) < 0.5)
    edge = max(size) / 2
    zoom, angle = rates[0] * np.log1p(camera.zoom) * time, rates[1] * np.radians(camera.rotation) * time
    return Motion(shift, zoom, angle, rates[2:] * camera.tilt / edge * time[:, None])


def place(
    rng: np.random.Generator,
    motion: Motion,
    size: tuple[int, int],
    photo: int,
    photo_size: tuple[int, int],
    camera: Camera,
) -> Path:
    """Place a motion somewhere in a photograph, weakened until it fits.

    Args:
        size: (H, W) of the frames.
        photo, photo_size: number and (H, W) of the photograph, which is at least as large as ``camera.needed``.
    """
    low, high = camera.density
    density = low * (high / low) ** rng.random()
    corners = np.array([[-1, -1, 1, 1], [-1, 1, -1, 1]]) * (np.array([[size[1]], [size[0]]]) - 1) / 2
    for part in (1.0, 0.5, 0.25, 0.125, 0.0):
        matrices = motion.weaker(part).matrices()
        seen = np.stack([project(matrix, *corners) for matrix in matrices])  # (T, 2, 4): x and y of the corners
        beside = [project(matrix, *(corners + [[right], [down]])) for matrix in matrices for right, down in _AXES]
        stretch = np.linalg.norm(np.stack(beside) - seen.repeat(2, 0), axis=1).max()
        first, last = seen.min((0, 2)), seen.max((0, 2))
        room = np.array(photo_size[::-1]) - 1 - 2 * _BORDER
        fitting = float((room / (last - first + 2 * _REACH * stretch)).min())
        depth = 1 + (matrices[:, 2, :2] @ corners).min()  # where a frame is farthest from its middle's
        if fitting >= low and depth > _LEAST_DEPTH:
            break
    density = min(density, fitting)
    pad = _BORDER + _REACH * stretch * density
    free = np.array(photo_size[::-1]) - 1 - 2 * pad - density * (last - first)
    origin = pad - density * first + rng.random(2) * free
    to_photo = np.array([[density, 0, origin[0]], [0, density, origin[1]], [0, 0, 1]])
    to_middle = np.array([[1, 0, -(size[1] - 1) / 2], [0, 1, -(size[0] - 1) / 2], [0, 0, 1]])
    # clipped, as rounding may step over the edge, where there are pixels to spare
    left, top = np.floor(density * first + origin - pad).astype(int).clip(0)
    right, bottom = np.minimum(np.ceil(density * last + origin + pad).astype(int), np.array(photo_size[::-1]) - 1)
    area = Crop(int(top), int(left), int(bottom - top + 1), int(right - left + 1))
    return Path(photo, to_photo @ matrices @ to_middle, area, max(1.0, stretch * density))
