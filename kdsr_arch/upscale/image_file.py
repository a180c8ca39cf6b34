"""Image files as people have them: 8 and 16 bits, grey, colour, transparent, turned by their camera, with a profile."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kdsr_arch.data.sources import IMAGE_SUFFIXES
from kdsr_arch.data.store.codec import PILLOW_STUMBLES, decode_image
from kdsr_arch.errors import UserError
from kdsr_arch.io import write_bytes

_DEEP = {".png", ".tif", ".tiff"}
_OPAQUE = {".jpg", ".jpeg", ".bmp", ".ppm", ".pgm"}


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        color: (H, W, 3) RGB or (H, W, 1) grey, uint8 or uint16.
        alpha: (H, W, 1) of the same type, or None.
        profile: the ICC profile, kept from file to file.
    """

    color: NDArray
    alpha: NDArray | None = None
    profile: bytes | None = None

    def with_pixels(self, color: NDArray, alpha: NDArray | None) -> Picture:
        """Other pixels, same profile."""
        return replace(self, color=color, alpha=alpha)


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
    """The pixels of a 16-bit file, RGB(A) or grey; None for 8-bit ones (Pillow drops the lower bits of 16)."""
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
    write_bytes(path, _encode_deep(path, array) if array.dtype == np.uint16 else _encode(path, array, picture.profile))


def _encode_deep(path: Path, array: NDArray) -> bytes:
    channels = array.shape[2]
    if channels == 2:  # neither format's writer takes grey with alpha
        array = np.concatenate([array[..., :1]] * 3 + [array[..., 1:]], axis=2)
    if channels > 1:
        array = cv2.cvtColor(array, cv2.COLOR_RGBA2BGRA if array.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(path.suffix.lower(), array)
    if not done:
        raise UserError(f"{path}: an image of shape {array.shape} cannot be written in this format")
    return encoded.tobytes()


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
