"""Image files as people have them: read upright, and written whole with what they said of themselves.

Kept are 8 and 16 bits, gray, transparency, color profiles, EXIF, the resolution in dpi and the texts of a PNG.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from kdsr_arch.data.image_file import PILLOW_STUMBLES, decode_image, ppm_white, turned, unsigned, upright
from kdsr_arch.errors import UserError, notice

_SPACES = {1: b"GRAY", 3: b"RGB "}  # of a color profile, by the channels that it fits
_EXIF, _GPS = 0x8769, 0x8825  # groups of EXIF's tags
_OF_PIXELS = (0xA002, 0xA003, 0xA005, 0x927C)  # width, height, another group; a maker's own data, which move no more
# who took or made the picture, with what, when, its title and rating; not how its pixels are laid out in the file
_ABOUT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, *range(0x9C9B, 0x9CA0), 0x8298)
_BITS, _SAMPLE_FORMAT = 258, 339  # tags of TIFF
_MOVING = {".apng", ".avifs", ".gif"}


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        color: (H, W, 3) RGB or (H, W, 1) gray, uint8 or uint16.
        alpha: (H, W, 1) of the same type, or None.
        about: what is kept from file to file: 'icc_profile' and 'exif' (bytes), 'dpi' (a pair), 'text' (of a PNG, by
            its keywords).
        name: where it comes from, for messages.
    """

    color: NDArray
    alpha: NDArray | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    name: str = "the image"


def read_picture(path: Path) -> Picture:
    """Read an image, upright; of a camera's or scanner's file with several, the first.

    Raises:
        UserError: no image, damaged, an animation, or of a kind that cannot be read as it is meant.
    """
    try:
        data = path.read_bytes()
        with _warnings_told(path), Image.open(io.BytesIO(data), formats=_formats()) as image:
            _take_first(image, path)
            image.load()
            depth, about = _depth(image, data), _about(image, path)
            array = _deep(data, path) if depth > 8 else np.asarray(_plain(image, about, path))
            if image.mode == "LA" and array.shape[2] == 4:  # OpenCV makes three of one gray
                array = array[..., [0, 3]]
            if image.format == "PNG" and array.ndim == 2 and "transparency" in image.info:
                array = _with_key(array, image.info["transparency"], depth)
            array = upright(array[..., None] if array.ndim == 2 else array, turned(data))
    except UnidentifiedImageError:
        return _float_picture(data, path)
    except PILLOW_STUMBLES as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from None
    color = array[..., :-1] if array.shape[2] in (2, 4) else array
    alpha = array[..., -1:] if array.shape[2] in (2, 4) else None
    return Picture(color, alpha, _fitting(about, color.shape[2], path), str(path))


@contextmanager
def _warnings_told(path: Path) -> Iterator[None]:
    """Say once what Pillow warns of, such as damaged EXIF, with the file's name."""
    with warnings.catch_warnings(record=True) as told:
        yield
    if told:
        notice("Pillow", f"{path}: {' '.join(str(told[0].message).split())} (said once)")


@cache
def picture_suffixes() -> frozenset[str]:
    """The endings of the files that `read_picture` reads, but for those of animations."""
    known = _formats()
    return frozenset(suffix for suffix, form in Image.registered_extensions().items() if form in known) - _MOVING


def is_still(path: Path) -> bool:
    """Tell whether a file is one that `read_picture` reads, whatever its name: of one picture."""
    try:
        with Image.open(path, formats=_formats()) as image:
            return getattr(image, "n_frames", 1) == 1
    except PILLOW_STUMBLES:
        return False


@cache
def _formats() -> list[str]:
    """Those of pixels that this Pillow reads; others (PostScript) would start programs."""
    Image.init()
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    wanted = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "PPM", "GIF", "TGA", "JPEG2000", "AVIF", "HEIF")
    return [name for name in wanted if name in Image.OPEN]


def _take_first(image: Image.Image, path: Path) -> None:
    """Refuse an animation; say so where only the first of several pictures is read."""
    count = getattr(image, "n_frames", 1)
    if count < 2:
        return
    if image.format not in ("MPO", "TIFF", "HEIF"):
        raise UserError(f"{path}: an animation; write its frames as images or as a video first")
    notice(f"first of {image.format}", f"{path}: holds {count} pictures; the first is taken (said once)")


def _depth(image: Image.Image, data: bytes) -> int:
    """Bits of a value; 16 also for other TIFF values than unsigned ones."""
    if image.format == "PNG":
        return data[24]
    if image.format == "PPM":
        return 16 if (ppm_white(data) or 0) > 255 else 8
    tags = getattr(image, "tag_v2", {})
    return 8 if max(tags.get(_BITS, (1,))) <= 8 and set(tags.get(_SAMPLE_FORMAT, (1,))) == {1} else 16


def _deep(data: bytes, path: Path) -> NDArray:
    """The pixels of a file of more than 8 bits, RGB(A) or gray, uint16.

    Raises:
        UserError: its values have no known white, or are not stored as RGB or gray.
    """
    pixels = decode_image(data)
    if pixels is None or pixels.dtype == np.uint8:
        raise UserError(f"{path}: damaged, or a kind of file that cannot be read; save it as gray or RGB of 16 bits")
    if np.issubdtype(pixels.dtype, np.floating):
        notice("float", f"{path}: floating-point images become images of 16 bits (said once)")
    try:
        pixels = unsigned(pixels, data)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.ndim == 3 else pixels


def _float_picture(data: bytes, path: Path) -> Picture:
    """Float TIFFs of three channels, which Pillow does not know."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        raise UserError(f"{path}: cannot be read as an image: it is of no known format, or damaged")
    array = _deep(data, path)
    array = array[..., None] if array.ndim == 2 else array
    return Picture(array[..., :3], array[..., 3:] if array.shape[2] == 4 else None, {}, str(path))


def _plain(image: Image.Image, about: dict[str, Any], path: Path) -> Image.Image:
    """L, LA, RGB or RGBA; a profile of other inks is used up."""
    if image.mode in ("CMYK", "LAB"):
        return _printed(image, about.pop("icc_profile", None), path)
    if image.mode in ("L", "LA", "RGBA"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode[0] in "IF":
        raise UserError(f"{path}: {image.format} of more than 8 bits cannot be read; save it as PNG or TIFF of 16 bits")
    transparent = image.mode in ("PA", "La", "RGBa") or "transparency" in image.info
    return image.convert("RGBA" if transparent else "RGB")


def _printed(image: Image.Image, profile: bytes | None, path: Path) -> Image.Image:
    """CMYK or Lab as sRGB, by its profile."""
    srgb, space = ImageCms.createProfile("sRGB"), profile[16:20].strip() if profile else b""
    try:
        if profile and space in (b"CMYK", b"Lab"):
            source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        elif image.mode == "LAB":
            source = ImageCms.createProfile("LAB")
        else:
            notice("CMYK", f"{path}: CMYK without a color profile: its colors are a guess (said once)")
            return image.convert("RGB")
        notice("inks", f"{path}: {image.mode} becomes sRGB (said once)")
        made = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    except ImageCms.PyCMSError as error:
        raise UserError(f"{path}: its color profile cannot be used ({error}); save it as RGB") from None
    assert made is not None
    return made


def _with_key(array: NDArray, key: int, depth: int) -> NDArray:
    """Turn the one transparent gray of a PNG of that depth into alpha."""
    peak = np.iinfo(array.dtype).max
    step = 1 if depth == 1 else peak // (2**depth - 1)  # Pillow has scaled it already where there is only 0 and 1
    alpha = np.where(array == key * step, 0, peak)
    return np.stack([array, alpha.astype(array.dtype)], 2)


def _about(image: Image.Image, path: Path) -> dict[str, Any]:
    """What the file says of itself, as far as it also holds for the enlarged picture."""
    about: dict[str, Any] = {}
    try:
        if image.info.get("icc_profile"):
            about["icc_profile"] = image.info["icc_profile"]
        dpi = tuple(float(value) for value in image.info.get("dpi", ()))
        if len(dpi) == 2 and all(0 < value < 65536 for value in dpi):
            about["dpi"] = dpi
        text = {key: value for key, value in getattr(image, "text", {}).items() if not _is_data(key)}
        kept = Image.Exif()
        kept.update(_lasting(image.getexif()))
        about |= ({"text": text} if text else {}) | ({"exif": kept.tobytes()} if len(kept) else {})
    except PILLOW_STUMBLES as error:
        notice("EXIF", f"{path}: what it says of itself cannot be read ({error}) and is dropped (said once)")
    return about


def _lasting(exif: Image.Exif) -> dict[int, Any]:
    """The tags that hold for the enlarged picture too, those in groups as mappings."""
    kept: dict[int, Any] = {tag: _stored(exif[tag]) for tag in _ABOUT if tag in exif}
    for group in (_EXIF, _GPS):
        tags = {tag: _stored(value) for tag, value in exif.get_ifd(group).items() if tag not in _OF_PIXELS}
        kept |= {group: tags} if tags else {}
    return kept


def _stored(value: Any) -> Any:
    """A text as the bytes that it was: Pillow reads them as Latin-1, but would write question marks."""
    return value.encode("latin-1", "replace") if isinstance(value, str) else value


def exif_tags(exif: bytes | None) -> dict[int, Any]:
    """List the tags of `Picture.about`, those in groups as mappings."""
    stored = Image.Exif()
    stored.load(exif or b"")
    return _lasting(stored)


def _is_data(keyword: str) -> bool:
    """Whether a PNG's text is a block of data in text form."""
    return keyword.startswith(("Raw profile type", "XML:"))


def _fitting(about: dict[str, Any], channels: int, path: Path) -> dict[str, Any]:
    """Leave out a color profile that is none of gray or RGB, whichever the picture is."""
    profile = about.get("icc_profile")
    if profile is not None and profile[16:20] != _SPACES[channels]:
        notice("profile", f"{path}: its color profile does not fit its pixels and is dropped (said once)")
        del about["icc_profile"]
    return about
