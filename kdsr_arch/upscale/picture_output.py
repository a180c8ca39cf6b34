"""Pictures into files: what each format holds, what it is too small for, and 16 bits with what belongs to them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from kdsr_arch.errors import UserError, notice
from kdsr_arch.io import write_bytes
from kdsr_arch.upscale.picture import Picture, exif_tags, picture_suffixes

# formats by the names that Pillow gives them
_DEEP = {"PNG", "TIFF", "PPM"}
_OPAQUE = {"JPEG", "BMP", "PPM"}
_WITHOUT_PROFILE = {"BMP", "PPM", "TGA"}
_LOSSY = {"JPEG", "WEBP", "AVIF", "HEIF"}
_LARGEST = {"WEBP": 16383, "JPEG": 65500, "TGA": 65535, "AVIF": 65535}  # height and width
_QUALITY = 95
_IHDR_END = 33


def check_target(path: Path, picture: Picture | None = None, scale: int = 1, quality: int | None = None) -> None:
    """Refuse a name whose format cannot hold the picture, enlarged.

    Raises:
        UserError: unknown suffix, one without 16 bits or transparency where the picture has them, or too large for it.
    """
    suffix, form = path.suffix.lower(), _format(path)
    if quality is not None and form not in _LOSSY:
        raise UserError(f"{path}: --image-quality {quality}: {suffix} loses nothing; write .jpg, .webp or .avif")
    if picture is None:
        return
    if picture.color.dtype == np.uint16 and form not in _DEEP:
        raise UserError(f"{path}: the image has 16 bits a channel, which {suffix} cannot hold; write .png or .tif")
    if picture.alpha is not None and form in _OPAQUE:
        raise UserError(f"{path}: the image is transparent, which {suffix} cannot hold; write .png, .tif or .webp")
    height, width = (side * scale for side in picture.color.shape[:2])
    full = form == "TIFF" and 4 * height * width * picture.color.itemsize >= 2**32
    if full or max(height, width) > _LARGEST.get(form, max(height, width)):
        raise UserError(f"{path}: {width}x{height} pixels are more than {suffix} can hold; write .png")


def _format(path: Path) -> str:
    """The format that a name asks for."""
    suffix = path.suffix.lower()
    forms = {ending: Image.registered_extensions().get(ending, "") for ending in sorted(picture_suffixes())}
    known = {ending: form for ending, form in forms.items() if form in Image.SAVE}
    if suffix not in known:
        raise UserError(f"{path}: '{path.suffix}' is no image format to write; take one of {', '.join(known)}")
    return known[suffix]


def write_picture(path: Path, picture: Picture, quality: int | None = None) -> None:
    """Write an image, whole or not at all, in the format of the name.

    Args:
        path: the file.
        picture: as the format holds it.
        quality: of formats that are lossy, 1 to 100; absent: 95, and lossless WebP.
    """
    check_target(path, picture)
    form, about = _format(path), dict(picture.about)
    parts = [picture.color] if picture.alpha is None else [picture.color, picture.alpha]
    array = np.concatenate(parts, axis=2)
    unheard = array.dtype == np.uint16 and array.shape[2] == 2  # no reader of such files takes gray with alpha
    if unheard:
        array = np.concatenate([array[..., :1]] * 3 + [array[..., 1:]], axis=2)
    if (form in _WITHOUT_PROFILE or unheard) and about.pop("icc_profile", None):
        notice(f"profile {form}", f"{path}: holds no such color profile; the image's is dropped (said once)")
    if form == "TIFF":
        return write_bytes(path, _tiff(array, about))
    if array.dtype != np.uint16:
        return write_bytes(path, _encode(path, array, _keywords(about, form, quality)))
    suffix = ".png" if form == "PNG" else ".pgm" if array.shape[2] == 1 else ".ppm"
    done, encoded = cv2.imencode(suffix, array[..., [2, 1, 0, 3][: array.shape[2]]] if array.shape[2] > 1 else array)
    if not done:
        raise UserError(f"{path}: an image of shape {array.shape} cannot be written in this format")
    write_bytes(path, _with_chunks(encoded.tobytes(), about) if form == "PNG" else encoded.tobytes())


def _keywords(about: Mapping[str, Any], form: str, quality: int | None = None) -> dict[str, Any]:
    """What Pillow's writer of a format is given."""
    keywords = {key: value for key, value in about.items() if key != "text"}
    if form == "PNG":
        info = PngInfo()
        for key, text in about.get("text", {}).items():
            info.add_text(key, text, zip=len(text) > 1000)
        keywords["pnginfo"] = info
    elif form == "WEBP":
        keywords |= {"lossless": True, "exact": True} if quality is None else {"quality": quality}
    elif form in _LOSSY:
        keywords |= {"quality": quality or _QUALITY, "subsampling": "4:4:4"}
    return keywords


def _encode(path: Path, array: NDArray, keywords: Mapping[str, Any]) -> bytes:
    image, buffer = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array), io.BytesIO()
    try:
        image.save(buffer, _format(path), **keywords)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written in this format ({error})") from None
    return buffer.getvalue()


def _with_chunks(png: bytes, about: Mapping[str, Any]) -> bytes:
    """Put what Pillow writes of an image beside its pixels into another writer's PNG."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG", **_keywords(about, "PNG"))
    donor = buffer.getvalue()
    return png[:_IHDR_END] + donor[_IHDR_END : donor.rindex(b"IDAT") - 4] + png[_IHDR_END:]  # before it, its length


def _tiff(array: NDArray, about: Mapping[str, Any]) -> bytes:
    """Encode (H, W, 1 to 4) whole numbers in one deflated strip, each value minus its left neighbor's."""
    height, width, channels = array.shape
    array = array.astype(array.dtype.newbyteorder("<"))
    strip = zlib.compress(np.concatenate([array[:, :1], array[:, 1:] - array[:, :-1]], 1).tobytes())
    color = 1 if channels < 3 else 2  # black is zero, or RGB
    tags: dict[int, Any] = {256: width, 257: height, 258: (8 * array.itemsize,) * channels, 259: 8, 262: color, 273: 0,
                            277: channels, 278: height, 279: len(strip), 317: 2}  # fmt: skip
    if channels in (2, 4):
        tags[338] = 2  # alpha, not multiplied into the color
    if "dpi" in about:
        tags |= {282: about["dpi"][0], 283: about["dpi"][1], 296: 2}
    if "icc_profile" in about:
        tags[34675] = about["icc_profile"]
    directory = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    for tag, value in (tags | exif_tags(about.get("exif"))).items():
        directory[tag] = value
    return b"II*\0" + struct.pack("<L", 8) + directory.tobytes(8) + strip
