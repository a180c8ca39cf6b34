"""Images upscaled one by one, by folders, or as the frames of a clip."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kdsr_arch.data.sources import IMAGE_SUFFIXES, natural
from kdsr_arch.errors import UserError
from kdsr_arch.infer.pixels import to_float, to_pixels
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.log import progress_bar
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.upscale.picture import Picture, read_picture
from kdsr_arch.upscale.picture_output import check_target, write_picture


def upscale_picture(restorer: Restorer, picture: Picture) -> Picture:
    """Upscale one image on its own: a video network is shown it as every frame of its window."""
    lq = _network_input(restorer, picture)
    return _finish(restorer, picture, restorer.piece([lq], [0])[0].cpu())


def _network_input(restorer: Restorer, picture: Picture) -> Tensor:
    """(C, h, w): gray images stay gray for Y networks, and become three equal channels for RGB ones."""
    lq = to_float(picture.color if picture.alpha is None else bled(picture.color, picture.alpha))
    return lq.expand(3, -1, -1).contiguous() if len(lq) == 1 and restorer.traits.color == "rgb" else lq


def bled(color: NDArray, alpha: NDArray) -> NDArray:
    """Let colors run into what is wholly transparent, so that nothing hidden there is mixed into what is seen.

    Args:
        color: (H, W, C), whole numbers.
        alpha: (H, W, 1).

    Returns:
        the same color where alpha is not 0; elsewhere means of ever wider surroundings.
    """
    seen = (alpha > 0).astype(np.float32)
    if not 0 < seen.mean() < 1:
        return color
    levels = [(color * seen, seen)]
    while not levels[-1][1].all():
        size = [-(-side // 2) for side in levels[-1][1].shape[1::-1]]
        total, weight = levels[-1]
        levels.append((_resized(total, size, cv2.INTER_AREA), _resized(weight, size, cv2.INTER_AREA)))
    filled = levels[-1][0] / levels[-1][1]
    for total, weight in levels[-2::-1]:
        wide = _resized(filled, weight.shape[1::-1], cv2.INTER_LINEAR)
        filled = np.where(weight > 0, total / np.maximum(weight, 1e-9), wide)
    return filled.round().astype(color.dtype)


def _resized(image: NDArray, size: Sequence[int], how: int) -> NDArray:
    return cv2.resize(image, size, interpolation=how).reshape(size[1], size[0], image.shape[2])


def _finish(restorer: Restorer, picture: Picture, sr: Tensor) -> Picture:
    dtype, sr = picture.color.dtype.type, restorer.checked(sr, picture.name)
    if picture.color.shape[2] == 1 and len(sr) == 3:
        sr = sr.mean(0, keepdim=True)
    alpha = picture.alpha
    if alpha is not None:
        alpha = to_pixels(upsample_bicubic(to_float(alpha)[None], restorer.traits.scale)[0], dtype)
    return replace(picture, color=to_pixels(sr, dtype), alpha=alpha)


def upscale_file(restorer: Restorer, source: Path, target: Path) -> None:
    """Upscale one image file."""
    check_target(target)
    picture = read_picture(source)
    check_target(target, picture, restorer.traits.scale)
    write_picture(target, upscale_picture(restorer, picture))


def list_images(folder: Path) -> list[Path]:
    """List the image files under a folder, in natural order.

    Raises:
        UserError: there are none.
    """
    images = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not images:
        raise UserError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return sorted(images, key=lambda path: natural(str(path.relative_to(folder))))


def upscale_folder(
    restorer: Restorer, source: Path, target: Path, *, sequence: bool = False, overwrite: bool = False
) -> int:
    """Upscale every image of a folder, names and sub-folders kept.

    What is in the output already is left alone, so that a second call goes on.

    Args:
        sequence: each folder's images are the frames of one clip.
        overwrite: make what is there anew.

    Returns:
        The number of images written.
    """
    images = list_images(source)
    places = {path: target / path.relative_to(source) for path in images}
    wanted = [path for path in images if overwrite or not places[path].exists()]
    if len(wanted) < len(images):
        kept = f"{len(images) - len(wanted)} of {len(images)} images"
        print(f"{kept} are in {target} already and are left as they are", flush=True)
    with progress_bar(target.name, len(wanted), "images") as bar:
        clips = [[path] for path in wanted]
        if sequence:  # the images of each folder that has something to do
            folders = dict.fromkeys(path.parent for path in wanted)
            clips = [[path for path in images if path.parent == folder] for folder in folders]
        for clip in clips:
            for path, picture in _upscale_clip(restorer, clip):
                if path in wanted:
                    write_picture(places[path], picture)
                    bar.update()
    return len(wanted)


def _upscale_clip(restorer: Restorer, clip: list[Path]) -> Iterator[tuple[Path, Picture]]:
    """Upscale images of one size, each seeing its neighbors; each picture waits for its result."""
    first = read_picture(clip[0])
    waiting: deque[tuple[Path, Picture]] = deque()

    def frames() -> Iterator[Tensor]:
        for path in clip:
            picture = first if path == clip[0] else read_picture(path)
            if picture.color.shape != first.color.shape:
                size, other = ("x".join(map(str, each.color.shape)) for each in (picture, first))
                raise UserError(
                    f"{path}: {size} pixels and channels, but {clip[0].name} has {other}; the frames of a sequence "
                    "must be of one size"
                )
            waiting.append((path, picture))
            yield _network_input(restorer, picture)

    for sr in restorer.stream(frames(), restorer.at_once(*first.color.shape[:2])):
        path, picture = waiting.popleft()
        yield path, _finish(restorer, picture, sr.cpu())
