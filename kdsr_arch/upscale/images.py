"""Images as people have them, upscaled one by one, by folders, or as the frames of a clip.

Kept are 8 and 16 bits, gray, transparency and color profiles; a camera's rotation is applied.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from kdsr_arch.data.image_file import IMAGE_SUFFIXES, PILLOW_STUMBLES, decode_image
from kdsr_arch.data.names import natural
from kdsr_arch.errors import UserError
from kdsr_arch.infer.pixels import to_float, to_pixels
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.io import write_bytes
from kdsr_arch.log import progress_bar
from kdsr_arch.ops.bicubic import upsample_bicubic

_DEEP = {".png", ".tif", ".tiff"}
_OPAQUE = {".jpg", ".jpeg", ".bmp", ".ppm", ".pgm"}


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        color: (H, W, 3) RGB or (H, W, 1) gray, uint8 or uint16.
        alpha: (H, W, 1) of the same type, or None.
        profile: the ICC profile, kept from file to file.
    """

    color: NDArray
    alpha: NDArray | None = None
    profile: bytes | None = None


def read_picture(path: Path) -> Picture:
    """Read an image, upright.

    Raises:
        UserError: no image, damaged, or of a kind that cannot be read.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise UserError(f"{path}: an animation; write its frames as images or as a video first")
            profile = image.info.get("icc_profile")
            deep = _decode_deep(data) if path.suffix.lower() in _DEEP else None
            if deep is not None:
                return _split(deep, profile)
            return _split(np.asarray(_plain(ImageOps.exif_transpose(image))), profile)
    except PILLOW_STUMBLES as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from None


def _decode_deep(data: bytes) -> NDArray | None:
    """The pixels of a 16-bit file, RGB(A) or gray; None for 8-bit ones (Pillow drops the lower bits of 16)."""
    image = decode_image(data)
    if image is None or image.dtype != np.uint16:
        return None
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return image


def _plain(image: Image.Image) -> Image.Image:
    """L, LA, RGB or RGBA."""
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode in ("1", "I", "I;16", "F"):
        return image.convert("L")
    transparent = image.mode in ("PA", "La", "RGBa") or "transparency" in image.info
    return image.convert("RGBA" if transparent else "RGB")


def _split(array: NDArray, profile: bytes | None) -> Picture:
    array = array[..., None] if array.ndim == 2 else array
    channels = array.shape[2]
    if channels in (2, 4):
        return Picture(array[..., :-1], array[..., -1:], profile)
    return Picture(array, None, profile)


def check_suffix(path: Path, picture: Picture | None = None) -> None:
    """Refuse a name whose format cannot hold the picture.

    Raises:
        UserError: unknown suffix, or one without 16 bits or transparency where the picture has them.
    """
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise UserError(
            f"{path}: '{path.suffix}' is no image format to write; take one of {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    if picture is None:
        return
    if picture.color.dtype == np.uint16 and suffix not in _DEEP:
        raise UserError(f"{path}: the image has 16 bits a channel, which {suffix} cannot hold; write .png or .tif")
    if picture.alpha is not None and suffix in _OPAQUE:
        raise UserError(f"{path}: the image is transparent, which {suffix} cannot hold; write .png, .tif or .webp")


def write_picture(path: Path, picture: Picture) -> None:
    """Write an image, whole or not at all, in the format of the name."""
    check_suffix(path, picture)
    parts = [picture.color] if picture.alpha is None else [picture.color, picture.alpha]
    array = np.concatenate(parts, axis=2)
    if array.dtype != np.uint16:
        return write_bytes(path, _encode(path, array, picture.profile))
    if array.shape[2] == 2:  # neither format's writer takes gray with alpha
        array = np.concatenate([array[..., :1]] * 3 + [array[..., 1:]], axis=2)
    if array.shape[2] > 1:
        array = cv2.cvtColor(array, cv2.COLOR_RGBA2BGRA if array.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(path.suffix.lower(), array)
    if not done:
        raise UserError(f"{path}: an image of shape {array.shape} cannot be written in this format")
    write_bytes(path, encoded.tobytes())


def _encode(path: Path, array: NDArray, profile: bytes | None) -> bytes:
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    suffix = path.suffix.lower()
    keywords: dict = {"icc_profile": profile} if profile else {}
    if suffix in (".jpg", ".jpeg"):
        keywords |= {"quality": 95, "subsampling": 0}
    elif suffix == ".webp":
        keywords |= {"lossless": True}
    buffer = io.BytesIO()
    try:
        image.save(buffer, Image.registered_extensions()[suffix], **keywords)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written in this format ({error})") from None
    return buffer.getvalue()


def upscale_picture(restorer: Restorer, picture: Picture) -> Picture:
    """Upscale one image on its own: a video network is shown it as every frame of its window."""
    lq = _network_input(restorer, picture)
    return _finish(restorer, picture, restorer.piece([lq], [0])[0].cpu())


def _network_input(restorer: Restorer, picture: Picture) -> Tensor:
    """(C, h, w): gray images stay gray for Y networks, and become three equal channels for RGB ones."""
    lq = to_float(picture.color)
    return lq.expand(3, -1, -1).contiguous() if len(lq) == 1 and restorer.traits.color == "rgb" else lq


def _finish(restorer: Restorer, picture: Picture, sr: Tensor) -> Picture:
    dtype = picture.color.dtype.type
    if picture.color.shape[2] == 1 and len(sr) == 3:
        sr = sr.mean(0, keepdim=True)
    alpha = picture.alpha
    if alpha is not None:
        alpha = to_pixels(upsample_bicubic(to_float(alpha)[None], restorer.traits.scale)[0], dtype)
    return replace(picture, color=to_pixels(sr, dtype), alpha=alpha)


def upscale_file(restorer: Restorer, source: Path, target: Path) -> None:
    """Upscale one image file."""
    check_suffix(target)
    picture = read_picture(source)
    check_suffix(target, picture)
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
