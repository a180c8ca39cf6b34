"""Images upscaled one by one, by folders, or as the frames of a clip."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kdsr_arch.data.image_file import IMAGE_SUFFIXES, passed_over, shown_files
from kdsr_arch.data.keys import natural
from kdsr_arch.errors import UserError, notice
from kdsr_arch.infer.pixels import to_float, to_pixels
from kdsr_arch.infer.stream import Restorer, is_out_of_memory
from kdsr_arch.io import read_json, write_bytes
from kdsr_arch.log import progress_bar
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.upscale.picture import Picture, picture_suffixes, read_picture
from kdsr_arch.upscale.picture_output import check_target, write_picture


class Unusable(UserError):
    """One image cannot be upscaled; the others of its folder may be."""


@contextmanager
def memory_for(name: str) -> Iterator[None]:
    """Say in a sentence that memory is too small for what ``name`` names, wherever it runs out."""
    try:
        yield
    except (MemoryError, RuntimeError, cv2.error) as error:
        if not is_out_of_memory(error):
            raise
        raise Unusable(f"{name}: too little memory to hold it enlarged; close other programs, or cut it") from None


def upscale_picture(restorer: Restorer, picture: Picture) -> Picture:
    """Upscale one image on its own: a video network is shown it as every frame of its window."""
    with memory_for(picture.name):
        lq = network_input(restorer, picture)
        return finish(restorer, picture, restorer.piece([lq], [0])[0].cpu())


def network_input(restorer: Restorer, picture: Picture) -> Tensor:
    """Make (C, h, w) of a picture: gray stays gray for Y networks, and becomes three equal channels for RGB ones."""
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


def seen(image: NDArray) -> NDArray:
    """Return (H, W, 4) pixels without what is hidden in the transparent ones; others as they are."""
    return np.dstack([bled(image[..., :3], image[..., 3:]), image[..., 3:]]) if image.shape[2] == 4 else image


def _resized(image: NDArray, size: Sequence[int], how: int) -> NDArray:
    return cv2.resize(image, size, interpolation=how).reshape(size[1], size[0], image.shape[2])


def finish(restorer: Restorer, picture: Picture, sr: Tensor) -> Picture:
    """Make the enlarged picture of what the network made (C, H, W): whole numbers, gray again, alpha enlarged."""
    dtype, sr = picture.color.dtype.type, restorer.checked(sr, picture.name)
    if picture.color.shape[2] == 1 and len(sr) == 3:
        sr = sr.mean(0, keepdim=True)
    alpha = picture.alpha
    if alpha is not None:
        alpha = to_pixels(upsample_bicubic(to_float(alpha)[None], restorer.traits.scale)[0], dtype)
    return replace(picture, color=to_pixels(sr, dtype), alpha=alpha)


def upscale_file(restorer: Restorer, source: Path, target: Path, quality: int | None = None) -> None:
    """Upscale one image file; ``quality`` is that of a lossy format."""
    check_target(target, quality=quality)
    picture = _usable(source, target, restorer)
    write_picture(target, upscale_picture(restorer, picture), quality)


def _usable(source: Path, target: Path, restorer: Restorer) -> Picture:
    """Read a picture that the target's format will hold."""
    try:
        picture = read_picture(source)
        check_target(target, picture, restorer.traits.scale)
    except UserError as error:
        raise Unusable(str(error)) from None
    return picture


def list_images(folder: Path) -> list[Path]:
    """List the image files under a folder, in natural order; say how many are of kinds that are not read.

    Raises:
        UserError: there are none, or a folder cannot be read.
    """
    files = list(shown_files(folder))
    images = [path for path in files if path.suffix.lower() in picture_suffixes()]
    others = passed_over(path.name for path in files if path.suffix.lower() not in picture_suffixes())
    if not images:
        found = f", but {others}" if others else ""
        raise UserError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}){found}")
    if others:
        notice(f"others {folder}", f"{folder}: images of other kinds are passed over ({others})")
    return sorted(images, key=lambda path: natural(str(path.relative_to(folder))))


def upscale_folder(
    restorer: Restorer,
    source: Path,
    target: Path,
    *,
    sequence: bool = False,
    overwrite: bool = False,
    network: str = "",
    quality: int | None = None,
) -> tuple[int, list[str]]:
    """Upscale every image of a folder, names and sub-folders kept.

    What is in the output already is left alone, so that a second call goes on. An unreadable image ends its sequence.

    Args:
        sequence: each folder's images are the frames of one clip.
        overwrite: make what is there anew.
        network: differs between networks, weights and precisions; images of another one are not added to.
        quality: of the images in lossy formats.

    Returns:
        The number of images written, and a sentence for each that could not be made.
    """
    images = list_images(source)
    places = {path: target / path.relative_to(source) for path in images}
    wanted = {path for path in images if overwrite or not places[path].exists()}
    record = _Record(target, network, sequence)
    if len(wanted) < len(images):
        record.compare()
        kept = f"{len(images) - len(wanted)} of {len(images)} images"
        print(f"{kept} are in {target} already and are left as they are", flush=True)
    record.write(replacing=overwrite)
    count, failures = 0, []
    with progress_bar(target.name, len(wanted), "images") as bar:
        for clip in _clips(images, wanted) if sequence else ([path] for path in images if path in wanted):
            try:
                for path, picture in _upscale_clip(restorer, {path: places[path] for path in clip}):
                    if path in wanted:
                        write_picture(places[path], picture, quality)
                        bar.update()
                        count += 1
            except Unusable as error:
                failures.append(str(error))
    record.write(replacing=False)
    return count, failures


def _clips(images: Sequence[Path], wanted: Collection[Path]) -> list[list[Path]]:
    """The images of each folder that has something to do."""
    folders = dict.fromkeys(path.parent for path in images if path in wanted)
    return [[path for path in images if path.parent == folder] for folder in folders]


class _Record:
    """What a folder's images were made with, in a hidden file among them."""

    def __init__(self, target: Path, network: str, sequence: bool) -> None:
        self.target, self.file = target, target / ".upscale.json"
        self.made_with = {"network": network, "sequence": sequence}

    def compare(self) -> None:
        """Refuse to add to images of another network; one that says nothing of itself is trusted."""
        if not self.file.is_file():
            return
        given = read_json(self.file, dict, "remove it, or name another folder")
        if given.pop("replacing", False):
            raise UserError(f"{self.target}: its images were being replaced; say --overwrite to make them all anew")
        if given != self.made_with:
            raise UserError(
                f"{self.target}: its images were made with other weights, another precision or in the other way of "
                "--sequence; say --overwrite to make them all anew, or name another folder"
            )

    def write(self, replacing: bool) -> None:
        """Say what is made now, and whether older images may still be among them."""
        write_bytes(self.file, json.dumps(self.made_with | ({"replacing": True} if replacing else {})).encode())


def _upscale_clip(restorer: Restorer, clip: Mapping[Path, Path]) -> Iterator[tuple[Path, Picture]]:
    """Upscale images of one size to their places, each seeing its neighbors; each picture waits for its result."""
    waiting: deque[tuple[Path, Picture]] = deque()
    head = next(iter(clip))
    first = _usable(head, clip[head], restorer)

    def frames() -> Iterator[Tensor]:
        for path, place in clip.items():
            picture = first if path == head else _usable(path, place, restorer)
            if picture.color.shape != first.color.shape:
                size, other = ("x".join(map(str, each.color.shape)) for each in (picture, first))
                raise Unusable(
                    f"{path}: {size} pixels and channels, but {head.name} has {other}; the frames of a sequence "
                    "must be of one size"
                )
            waiting.append((path, picture))
            yield network_input(restorer, picture)

    results = restorer.stream(frames(), restorer.at_once(*first.color.shape[:2]))
    while True:
        with memory_for(waiting[0][1].name if waiting else str(head)):
            sr = next(results, None)
            if sr is None:
                return
            path, picture = waiting.popleft()
            made = finish(restorer, picture, sr.cpu())
        yield path, made
