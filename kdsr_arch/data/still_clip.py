"""Clips rendered from photographs: frames without aliasing, the exact flow of every pixel, and where it can be seen.

The photograph is filtered once for the whole clip, to what the pixels of a frame can show (Keys' kernel, as MATLAB
shrinks images) where it is seen smallest, and sampled at each frame's positions by a cubic or Lanczos kernel. As the
filtered photograph has more pixels than the frame, frames are equally sharp at every sub-pixel position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from kdsr_arch.data.augment import Crop, eight_bits
from kdsr_arch.data.camera import Camera, Matrices, Path, draw_motion, place, project
from kdsr_arch.data.flow_image import between
from kdsr_arch.ops.banded import keys_kernel

Read = Callable[[int, Crop], NDArray]
"""Reads an area of a photograph, (h, w, 3) RGB, by its number."""
_DENSE = 2.0  # pixels of a photograph for one of a frame from which on the cubic kernel, four times as fast, will do
_ROUNDING = 1e-6
_CLEAR = 0.02  # of the other layer, in a pixel that still counts as one of its own


class Cutout(NamedTuple):
    """The outline of a photograph that lies before another: where a smooth random field is above a level.

    Attributes:
        field: (k, k), the field's values on a grid over the area that is read.
        level: the field's mean is 0, its variance below 1.
    """

    field: NDArray[np.float32]
    level: float


@dataclass(frozen=True)
class Scene:
    """A clip before it is rendered.

    Attributes:
        size: (H, W) of the frames.
        back: the motion before the photograph behind.
        front: the motion before the one in front of it, if any, with its outline.
    """

    size: tuple[int, int]
    back: Path
    front: Path | None = None
    cutout: Cutout | None = None

    def __len__(self) -> int:
        return len(self.back.matrices)

    def part(self, frames: slice) -> Scene:
        """Return the scene of some of its frames."""
        back, front = (path and path._replace(matrices=path.matrices[frames]) for path in (self.back, self.front))
        assert back is not None
        return replace(self, back=back, front=front)


class Flow(NamedTuple):
    """The motion from each frame of a clip to the next, at the pixels of the earlier.

    Attributes:
        vectors: (T - 1, 2, H, W) float32, (dx, dy) in pixels: what is at p in frame t is at p + v in frame t + 1.
        visible: (T - 1, 1, H, W) float32: 1 where that pixel is inside frame t + 1, not hidden there and not across an
            outline, else 0.
    """

    vectors: NDArray[np.float32]
    visible: NDArray[np.float32]


def draw_scene(
    rng: np.random.Generator,
    photo: int,
    count: int,
    size_of: Callable[[int], tuple[int, int]],
    size: tuple[int, int],
    frames: int,
    camera: Camera,
) -> Scene:
    """Draw a clip from a photograph and, with parallax, a second one.

    Args:
        photo, count: number of the photograph, of how many.
        size_of: gives the (H, W) of one by its number.
        size: (H, W) of the frames.
    """
    motion = draw_motion(rng, frames, size, camera)
    back = place(rng, motion, size, photo, size_of(photo), camera)
    if rng.random() >= camera.parallax:
        return Scene(size, back)
    other, relative = int(rng.integers(count)), motion.with_other(draw_motion(rng, frames, size, camera))
    side = int(rng.integers(3, 7))
    cutout = Cutout(rng.standard_normal((side, side)).astype(np.float32), float(rng.uniform(-0.4, 0.6)))
    return Scene(size, back, place(rng, relative, size, other, size_of(other), camera), cutout)


def shares_in_front(scene: Scene) -> NDArray[np.float32] | None:
    """Return how much of the photograph in front is in each pixel, (T, H, W) in [0, 1]; None without one."""
    path = scene.front
    if path is None or scene.cutout is None:
        return None
    outline = _outline(scene.cutout, path)
    return np.stack([_warped(outline, path, matrix, scene.size, cv2.INTER_LINEAR) for matrix in path.matrices])


def render(scene: Scene, read: Read, shares: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """Render the frames of a scene, (T, H, W, 3) uint8 RGB.

    Args:
        shares: as of :func:`shares_in_front`.
    """
    frames = _views(scene.back, read, scene.size)
    if scene.front is not None and shares is not None:
        front = _views(scene.front, read, scene.size)
        front -= frames
        front *= shares[..., None]
        frames += front
    return np.clip(np.rint(frames, out=frames), 0, 255, out=frames).astype(np.uint8)


def _views(path: Path, read: Read, size: tuple[int, int]) -> NDArray[np.float32]:
    area = eight_bits(read(path.photo, path.area))
    taps = _shrinking_taps(path.scale)
    photo = cv2.sepFilter2D(area, cv2.CV_32F, taps, taps, borderType=cv2.BORDER_REFLECT)
    kernel = cv2.INTER_CUBIC if path.scale >= _DENSE else cv2.INTER_LANCZOS4
    frames = np.empty((len(path.matrices), *size, 3), np.float32)
    for frame, matrix in zip(frames, path.matrices, strict=True):
        _warped(photo, path, matrix, size, kernel, frame)
    return frames


def _warped(
    photo: NDArray, path: Path, matrix: Matrices, size: tuple[int, int], how: int, out: NDArray | None = None
) -> NDArray:
    """Sample what was read of a photograph where a frame looks at it."""
    shift = np.array([[1, 0, -path.area.left], [0, 1, -path.area.top], [0, 0, 1]], np.float64)
    x, y = project(shift @ matrix, *_grid(Crop(0, 0, *size)))
    border = cv2.BORDER_REFLECT  # never reached
    return cv2.remap(photo, x.astype(np.float32), y.astype(np.float32), how, dst=out, borderMode=border)


def _grid(crop: Crop) -> tuple[NDArray, NDArray]:
    """Return a row of x and a column of y."""
    return np.arange(crop.left, crop.left + crop.width)[None], np.arange(crop.top, crop.top + crop.height)[:, None]


@lru_cache(maxsize=256)
def _shrinking_taps(scale: float) -> NDArray[np.float32]:
    """Return the taps of Keys' kernel, ``scale`` times as wide: what shrinking by that factor needs."""
    reach = int(np.ceil(2 * scale))
    taps = keys_kernel(np.arange(-reach, reach + 1) / scale)
    return (taps / taps.sum()).astype(np.float32)


def _outline(cutout: Cutout, path: Path) -> NDArray:
    """Return the share of a cut-out photograph in its pixels; its edge is as soft as a frame's pixels are wide."""
    width = int(np.ceil(path.scale)) | 1
    field = cv2.resize(cutout.field, (path.area.width, path.area.height), interpolation=cv2.INTER_CUBIC)
    inside = (field > cutout.level).astype(np.float32)
    return cv2.blur(cv2.blur(inside, (width, width)), (width, width))


def exact_flow(scene: Scene, shares: NDArray[np.float32] | None, inner: Crop | None = None) -> Flow:
    """Compute the flow between the frames of a scene.

    Args:
        shares: as of :func:`shares_in_front`.
        inner: the part of the frames that is wanted; what leaves it counts as not visible.
    """
    inner = inner or Crop(0, 0, *scene.size)
    x, y = _grid(inner)
    vectors = np.empty((len(scene) - 1, 2, inner.height, inner.width), np.float32)
    visible = np.empty((len(scene) - 1, 1, inner.height, inner.width), np.float32)
    for t in range(len(scene) - 1):
        across, down = _ends(scene.back, t, x, y)
        inside: NDArray[np.bool_] | bool = True
        if scene.front is not None and shares is not None:
            is_front, before = inner.of(shares[t]) >= 0.5, _ends(scene.front, t, x, y)
            across, down = np.where(is_front, before[0], across), np.where(is_front, before[1], down)
            inside = _clear(inner.of(shares[t]), shares[t + 1], is_front, across, down)
        inside = inside & between(across, inner.left, inner.width, _ROUNDING)
        inside = inside & between(down, inner.top, inner.height, _ROUNDING)
        vectors[t], visible[t, 0] = (across - x, down - y), inside
    return Flow(vectors, visible)


def _ends(path: Path, t: int, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Return where the pixels of frame t are in frame t + 1."""
    return project(np.linalg.inv(path.matrices[t + 1]) @ path.matrices[t], x, y)


def _clear(share: NDArray, following: NDArray, is_front: NDArray, across: NDArray, down: NDArray) -> NDArray[np.bool_]:
    """Tell which pixels are of one layer alone, and around where they go in the frame that follows, too."""
    square, ends = np.ones((3, 3), np.uint8), (across.astype(np.float32), down.astype(np.float32))
    most, least = (
        cv2.remap(around(following, square), *ends, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        for around in (cv2.dilate, cv2.erode)
    )
    of_back, of_front = np.maximum(share, most) <= _CLEAR, np.minimum(share, least) >= 1 - _CLEAR
    return np.where(is_front, of_front, of_back)
