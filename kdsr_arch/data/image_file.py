"""Image files: how large, which way up, whole or cut short, and their pixels. Every reader of images goes through here.

A camera held upright stores the rows of its sensor, and EXIF says how to turn them. Sizes and pixels are those of the
turned image, as every viewer shows it.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from kdsr_arch.data.keys import unreadable, without_suffix
from kdsr_arch.errors import UserError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
# further endings of images that are read, as far as this OpenCV does
READABLE = IMAGE_SUFFIXES | {".jfif", ".jpe", *(end for end in (".jp2", ".avif") if cv2.haveImageWriter(f"a{end}"))}
_OTHER_IMAGES = frozenset(
    {
        *(".gif", ".apng", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".jpx", ".avif", ".tga", ".psd", ".svg", ".exr"),
        *(".hdr", ".pfm", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".ico", ".pbm", ".dds"),
    }
)
# what network drives and other systems lay beside one's files: thumbnails, what was deleted
_SYSTEM_FOLDERS = frozenset({"@eadir", "@tmp", "#recycle", "@recycle", "#snapshot", "__macosx", "$recycle.bin"})
# what Pillow raises over files that are no image, or a damaged one
PILLOW_STUMBLES = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError),
    *(EOFError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)
_ORIENTATION = 0x0112  # EXIF's tag: 1 is upright; from 5 on, height and width change places
# tags of TIFF
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_PHOTOMETRIC, _TIFF_EXTRA = 256, 257, 262, 338
_WHITE_IS_ZERO, _PREMULTIPLIED, _STRAIGHT = 0, 1, 2  # values of the last two
_EXIF_MARKS = (b"Exif\0", b"http://ns.adobe.com/xap")
_EXIF_REACH = 1 << 18  # a JPEG's EXIF comes before its pixels, and in its first parts
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # between pixels 0xff is followed by 0, or restarts them
_PPM_HEADER = re.compile(rb"P[2356](?:(?:\s+|#[^\n]*\n)+\d+){2}(?:\s+|#[^\n]*\n)+(\d+)\s")
_START_OF_IMAGE, _END_OF_IMAGE = 0xD8, 0xD9


class UnknownWhite(Exception):
    """Values of which nothing tells which one is white: signed whole numbers, or those of 32 bits."""


def is_shown(name: str) -> bool:
    """Return False for hidden files and folders, and those that network drives add (Synology's thumbnails)."""
    return not name.startswith(".") and name.lower() not in _SYSTEM_FOLDERS


def shown_files(top: Path, deep: bool = True) -> Iterator[Path]:
    """Yield the files of a folder and, where ``deep``, of those below it. Links are followed.

    Hidden files are left out, and pipes and devices, which keep a reader waiting.

    Raises:
        UserError: a folder cannot be read, or is a link to one above it.
    """
    folders = [top]
    while folders:
        folder = folders.pop()
        subfolders, files = _inside(folder)
        yield from files
        if not deep:
            return
        above = [folder, *(parent for parent in folder.parents if parent.is_relative_to(top))]
        for link in filter(Path.is_symlink, subfolders):
            if any(parent.resolve().is_relative_to(link.resolve()) for parent in above):
                raise UserError(f"{link}: is a link to a folder above it; remove the link")
        folders += reversed(subfolders)


def _inside(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders in a folder, in order, and its files."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in filter(lambda entry: is_shown(entry.name), entries):
                is_folder = is_file = False
                with suppress(OSError):  # a link that leads nowhere is a file, of which its reader tells
                    is_folder, is_file = entry.is_dir(), entry.is_file()
                if is_folder:
                    folders.append(Path(entry.path))
                elif is_file or not os.path.exists(entry):
                    files.append(Path(entry.path))
    except OSError as error:
        raise unreadable(error) from None
    return sorted(folders), files


def without_image_suffix(name: str) -> str:
    """Return an image's name without its suffix; what else stands behind a dot belongs to it, as in ``render.1001``."""
    return without_suffix(name) if Path(name).suffix.lower() in READABLE else name


def passed_over(names: Iterable[str]) -> str:
    """Count the images among file names that are of no kind that is read: ``12 .gif, 3 .heic``, or nothing."""
    counts = Counter(suffix for name in names if (suffix := Path(name).suffix.lower()) in _OTHER_IMAGES - READABLE)
    return ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(counts.items()))


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, start and end of each chunk of a PNG up to IEND; the last may end beyond the file."""
    start, name = 8, b""
    while name != b"IEND":
        file.seek(start)
        head = file.read(8)
        if len(head) < 8:
            return
        name, end = head[4:], start + 12 + int.from_bytes(head[:4], "big")
        yield name, start, end
        start = end


def _exif_chunks(file: BinaryIO) -> list[tuple[int, int]]:
    return [(start, end) for name, start, end in png_chunks(file) if name == b"eXIf"]


def is_whole(file: BinaryIO) -> bool:
    """Return False for an image file that is cut short; bytes behind its end (a phone's film) do not matter.

    Some decoders fill what is missing with gray, silently, or make room for what a PNG's chunk says it holds.
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head.startswith(b"\x89PNG"):
        return any(name == b"IEND" and end <= length for name, _, end in png_chunks(file))
    if head.startswith(b"\xff\xd8"):
        file.seek(-2, io.SEEK_END)
        if file.read() == b"\xff\xd9":  # spares the walk, which takes a quarter of the time of decoding
            return True
        file.seek(0)
        return _jpeg_ends(file.read())
    if head.startswith(b"RIFF") and head[8:] == b"WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= length
    return length > 0


def _jpeg_ends(data: bytes) -> bool:
    """Walk a JPEG from part to part, over the thumbnails in them, and return whether its own end is there."""
    found = _JPEG_MARKER.search(data, 2)
    while found and found[1][0] not in (_START_OF_IMAGE, _END_OF_IMAGE):
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        found = _JPEG_MARKER.search(data, found.end() + length)
    return found is not None and found[1][0] == _END_OF_IMAGE


def _orientation(image: Image.Image, file: BinaryIO) -> int:
    """Return EXIF's orientation, 1 to 8. A TIFF's is 1: OpenCV and Pillow turn those themselves."""
    try:
        if image.format != "PNG":
            return 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)
        exif = Image.Exif()  # Pillow would decode the PNG to find it
        for start, end in _exif_chunks(file):
            file.seek(start + 8)
            exif.load(b"Exif\0\0" + file.read(end - start - 12))
        return exif.get(_ORIENTATION, 1)
    except PILLOW_STUMBLES:
        return 1


def _header(file: BinaryIO) -> tuple[int, int, int]:
    """Return height and width as stored, and the orientation."""
    try:
        with Image.open(file) as image:
            if image.mode == "I" and image.format == "TIFF":  # a PNG of 16 bits may have that mode as well
                raise UnknownWhite("the white of its whole numbers is not known; save it with 8 or 16 bits or as float")
            return image.height, image.width, _orientation(image, file)
    except UnidentifiedImageError:  # Pillow does not know TIFFs of three floating-point channels
        tags = _tiff_tags(file)
        height, width = tags.get(_TIFF_HEIGHT, 0), tags.get(_TIFF_WIDTH, 0)
        if not all(0 < side < 1 << 31 for side in (height, width)):
            raise ValueError("a TIFF without a size") from None
        return height, width, tags.get(_ORIENTATION, 1)


def _tiff_tags(file: BinaryIO) -> dict[int, int]:
    """Read the tags of a TIFF's first picture, each the first of its whole numbers where there are few."""
    file.seek(0)
    head = file.read(8)
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    if head[:4] not in (b"II*\0", b"MM\0*"):
        raise ValueError("no known image format")
    file.seek(int.from_bytes(head[4:], order))
    tags = {}
    for _ in range(int.from_bytes(file.read(2), order)):
        tag, kind, _, value = struct.unpack("<HHI4s" if order == "little" else ">HHI4s", file.read(12))
        tags[tag] = int.from_bytes(value[: 2 if kind == 3 else 4], order)  # of 16 bits (kind 3) or 32
    return tags


def image_size(file: str | Path | bytes | memoryview) -> tuple[int, int]:
    """Return (H, W) of an image file, or of its bytes, upright; the pixels are not decoded.

    Raises:
        OSError: the file cannot be opened; any of PILLOW_STUMBLES: it is no image, or cut short.
        UnknownWhite: it is an image that is not taken.
    """
    with io.BytesIO(file) if isinstance(file, bytes | memoryview) else open(file, "rb") as handle:
        if not is_whole(handle):
            raise ValueError("cut short")
        height, width, turn = _header(handle)
    return (width, height) if turn in (5, 6, 7, 8) else (height, width)


def turned(data: bytes) -> int:
    """Return the orientation of an encoded image, 1 where its bytes are upright."""
    may_say = (
        (data.startswith(b"\x89PNG") and _exif_chunks(io.BytesIO(data)))
        or (data.startswith(b"\xff\xd8") and any(data.find(mark, 0, _EXIF_REACH) > 0 for mark in _EXIF_MARKS))
        or (data[8:16] == b"WEBPVP8X" and data[20] & 8)
        or data[4:8] == b"ftyp"  # AVIF
    )
    try:
        return _header(io.BytesIO(data))[2] if may_say else 1
    except PILLOW_STUMBLES:
        return 1


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels (H, W, ...) as EXIF's orientation asks."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    down, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image[:: -1 if down else 1, :: -1 if right else 1])


def _with_own_colors(data: bytes) -> bytes:
    """Return a TIFF's bytes with the kind of its alpha left open, where its colors are not multiplied by it.

    Told the kind, OpenCV multiplies those of 8 bits.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    try:
        first = struct.unpack_from(f"{order}I", data, 4)[0] + 2
        end = first + 12 * struct.unpack_from(f"{order}H", data, first - 2)[0]
        place = data.find(struct.pack(f"{order}HHIH", _TIFF_EXTRA, 3, 1, _STRAIGHT), first, end)
    except struct.error:  # no TIFF, or cut short
        return data
    return data if place < 0 else data[: place + 8] + bytes(2) + data[place + 10 :]


def decode_image(data: bytes | bytearray | memoryview, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray | None:
    """Decode an image file to pixels as they are stored, in OpenCV's order; None for what is no whole image.

    None also for an image that is too large.
    """
    data = bytes(data)
    try:
        stored = flags if flags == cv2.IMREAD_UNCHANGED else flags | cv2.IMREAD_IGNORE_ORIENTATION
        whole = is_whole(io.BytesIO(data))
        return cv2.imdecode(np.frombuffer(_with_own_colors(data), np.uint8), stored) if whole else None
    except cv2.error:
        return None


def decode_upright(data: bytes | bytearray | memoryview, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray | None:
    """Decode an image file as :func:`decode_image` does, turned as EXIF says."""
    data = bytes(data)
    image = decode_image(data, flags)
    return None if image is None else upright(image, turned(data))


def unsigned(pixels: np.ndarray, data: bytes | bytearray | memoryview) -> np.ndarray:
    """Return pixels as uint8 or uint16, whose largest value is white.

    Args:
        pixels: as OpenCV decodes them.
        data: the image file. A PPM says itself what white is, and a TIFF that it is 0.

    Raises:
        ValueError: it is not known what white is, or the colors are multiplied by their alpha.
    """
    if (white := ppm_white(data)) is not None:
        return _whitened(pixels, white, text=bytes(data[:2]) in (b"P2", b"P3"))
    if pixels.dtype == np.uint8:
        return pixels
    tags = _tiff_tags(io.BytesIO(data)) if bytes(data[:4]) in (b"II*\0", b"MM\0*") else {}
    if tags.get(_TIFF_EXTRA) == _PREMULTIPLIED:
        raise ValueError("its colors are multiplied by their alpha; save it as gray or RGB of 16 bits")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError("its values reach beyond 0 to 1, so that its white is not known; scale them first")
        pixels = (pixels * 65535).round().astype(np.uint16)
    if pixels.dtype != np.uint16:
        raise ValueError(f"the white of {pixels.dtype} values is not known; save it with 8 or 16 bits or as float")
    return 65535 - pixels if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO else pixels


def ppm_white(data: bytes | bytearray | memoryview) -> int | None:
    """Return the value that stands for white in a PGM or PPM; None for another file."""
    header = _PPM_HEADER.match(bytes(data[:1000]))
    return int(header[1]) if header else None


def _whitened(pixels: np.ndarray, white: int, text: bool) -> np.ndarray:
    """Scale a PPM's values to the whole range of their type; OpenCV does so itself for 8 bits written as text."""
    peak = np.iinfo(pixels.dtype).max
    if white in (0, peak) or (text and peak == 255):
        return pixels
    return (pixels * (peak / white)).round().clip(0, peak).astype(pixels.dtype)
