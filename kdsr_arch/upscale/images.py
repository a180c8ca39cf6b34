"""Upscaling single images, folders of images, and folders that are the frames of a clip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from kdsr_arch.data.sources import IMAGE_SUFFIXES, natural
from kdsr_arch.errors import UserError
from kdsr_arch.log import progress_bar
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.upscale.chunks import Piece, Restorer
from kdsr_arch.upscale.image_file import Picture, check_suffix, read_picture, write_picture
from kdsr_arch.upscale.pixels import to_array, to_tensor
from kdsr_arch.upscale.tiling import TileChoice


def upscale_picture(restorer: Restorer, picture: Picture) -> Picture:
    """One image on its own: a video network is shown it as every frame of its window."""
    lq = _network_input(restorer, picture)
    return _finish(restorer, picture, restorer.restore(Piece([lq], 0, 1))[0].cpu())


def _network_input(restorer: Restorer, picture: Picture) -> Tensor:
    """(C, h, w): grey images stay grey for Y networks, and become three equal channels for RGB ones."""
    lq = to_tensor(picture.color)
    return lq.expand(3, -1, -1).contiguous() if len(lq) == 1 and restorer.model.traits.color == "rgb" else lq


def _finish(restorer: Restorer, picture: Picture, sr: Tensor) -> Picture:
    dtype = picture.color.dtype.type
    if picture.color.shape[2] == 1 and len(sr) == 3:
        sr = sr.mean(0, keepdim=True)
    alpha = picture.alpha
    if alpha is not None:
        alpha = to_array(upsample_bicubic(to_tensor(alpha)[None], restorer.model.traits.scale)[0], dtype)
    return picture.with_pixels(to_array(sr, dtype), alpha)


def upscale_file(restorer: Restorer, source: Path, target: Path, tiles: TileChoice) -> None:
    """One image file."""
    check_suffix(target)
    picture = read_picture(source)
    check_suffix(target, picture)
    tiles.fit(restorer, *picture.color.shape[:2])
    write_picture(target, upscale_picture(restorer, picture))


def list_images(folder: Path) -> list[Path]:
    """The image files under a folder, in natural order.

    Raises:
        UserError: there are none.
    """
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise UserError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return sorted(found, key=lambda path: natural(str(path.relative_to(folder))))


def upscale_folder(
    restorer: Restorer,
    source: Path,
    target: Path,
    tiles: TileChoice,
    *,
    sequence: bool = False,
    overwrite: bool = False,
) -> int:
    """Every image of a folder, names and sub-folders kept; what is there already is left, so a second call goes on.

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
        print(
            f"{len(images) - len(wanted)} of {len(images)} images are in {target} already and are left as they are",
            flush=True,
        )
    groups = _clips(images, set(wanted)) if sequence else ([path] for path in wanted)
    with progress_bar(target.name, len(wanted), "images") as bar:
        for group in groups:
            for path, picture in _upscale_group(restorer, group, tiles, sequence):
                if path in wanted:
                    write_picture(places[path], picture)
                    bar.update()
    return len(wanted)


def _clips(images: list[Path], wanted: set[Path]) -> Iterator[list[Path]]:
    """The images of each folder, of folders with something to do."""
    for folder in dict.fromkeys(path.parent for path in images):
        clip = [path for path in images if path.parent == folder]
        if wanted & set(clip):
            yield clip


def _upscale_group(
    restorer: Restorer, group: list[Path], tiles: TileChoice, sequence: bool
) -> Iterator[tuple[Path, Picture]]:
    if not sequence:
        picture = read_picture(group[0])
        tiles.fit(restorer, *picture.color.shape[:2])
        yield group[0], upscale_picture(restorer, picture)
        return
    waiting: list[tuple[Path, Picture]] = []
    size = read_picture(group[0]).color.shape
    tiles.fit(restorer, *size[:2])

    def frames() -> Iterator[Tensor]:
        """What the network is given, one picture after the other; each waits for its result."""
        for path in group:
            picture = read_picture(path)
            if picture.color.shape != size:
                raise UserError(
                    f"{path}: {_shape(picture.color)} pixels and channels, but {group[0].name} has "
                    f"{'x'.join(map(str, size))}; the frames of a sequence must be of one size"
                )
            waiting.append((path, picture))
            yield _network_input(restorer, picture)

    for sr in restorer.stream(frames(), restorer.frames_at_once(*size[:2])):
        path, picture = waiting.pop(0)
        yield path, _finish(restorer, picture, sr.cpu())


def _shape(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape))
