"""Names of frames and clips: keys, their order, and the files that list them. Every list is read here.

A name may hold spaces, brackets and any letter. It may hold no line break, as lists have a line for each name, and in
stores it must be UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from kdsr_arch.errors import SHORT, Shortage, UserError

_LONGEST = 400  # characters of a key: LMDB takes 511 bytes
_MOST_SIDE = 1 << 31
_SIZE = r"\((?P<height>\d{1,10}),\s*(?P<width>\d{1,10})(?:,[^()]*)?\)"
_FRAME_LINE = re.compile(rf"(?P<name>.*\S)\s+{_SIZE}(?:\s+\S+)?\s*")
_ENDS_IN_SIZE = re.compile(r"\s\(\d+(?:,\s*\d+)+\)(?:\s+\d)?$")
_CLIP_LINE = re.compile(rf"(?P<name>.*\S)\s+(?P<count>\d{{1,9}})\s+{_SIZE}\s*")


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key under which ``im2`` comes before ``im10``."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(p), p) if p.isdecimal() and p.isascii() else (1, 0, p) for p in parts]


def clip_of(key: str) -> str:
    """Return the clip a frame belongs to: ``00001/0001/im4`` -> ``00001/0001``; an empty string without a folder."""
    return key.rpartition("/")[0]


def group_clips(keys: Iterable[str]) -> dict[str, list[str]]:
    """Group frame keys by clip, clips and frames in natural order."""
    clips: dict[str, list[str]] = {}
    for key in sorted(keys, key=natural):
        clips.setdefault(clip_of(key), []).append(key)
    return clips


def safe_key(key: str, origin: str) -> str:
    """Return ``key`` unchanged; raise UserError when it could reach outside its data root, or is too long.

    Args:
        key: relative, with forward slashes.
        origin: the file that names the key, for the message.
    """
    if len(key) > _LONGEST:
        raise UserError(f"{origin}: a key of {len(key)} characters; no more than {_LONGEST} are possible")
    path = PurePosixPath(key)
    outside = path.is_absolute() or ".." in path.parts or "\\" in key or "\0" in key or re.match(r"[A-Za-z]:", key)
    if outside or not path.parts:
        raise UserError(
            f"{origin}: the key '{key}' reaches outside the data root; keys are relative paths below it, without "
            "backslashes and drive letters"
        )
    return key


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' own names, with as many parents as tell them apart; whole paths where nothing does."""
    parts = [folder.resolve().parts[1:] or ("/",) for folder in folders]
    shortened = (["/".join(part[-depth:]) for part in parts] for depth in range(1, max(map(len, parts)) + 1))
    return next((short for short in shortened if len(set(short)) == len(short)), ["/".join(part) for part in parts])


def label_folders(folders: Sequence[Path], names: Sequence[str] | None = None) -> list[str]:
    """Give each folder a name of its own: the given one, or its own with as many parents as tell the folders apart.

    Raises:
        UserError: as many names as folders are not given, or two folders have one.
    """
    if names is not None and len(names) != len(folders):
        raise UserError(f"--names: {len(names)} names for {len(folders)} folders; give one for each")
    labels = list(names) if names is not None else distinct_names(folders)
    again = next((label for number, label in enumerate(labels) if label in labels[:number]), None)
    if again is not None and names is None:
        raise UserError(f"{folders[labels.index(again)]}: is given twice; give each folder once, or --names")
    if again is not None:
        raise UserError(f"--names: names must differ, got {', '.join(labels)}")
    return labels


def stored_key(key: str, side: str = "") -> bytes:
    """Return the key of a frame in data.mdb.

    Raises:
        UserError: a name that is no UTF-8, or that breaks the lines of the store's list.
    """
    if "\n" in key or "\r" in key:
        raise UserError(f"the name {key!r} holds a line break, which no list of frames can; rename the file")
    try:
        return (f"{side}/{key}" if side else key).encode()
    except UnicodeEncodeError:
        raise UserError(f"the name {key!r} is not valid UTF-8; rename the file") from None


def fill_template(template: str, name: str, where: str) -> str:
    """Return an image's name in the place that a `filename_tmpl` keeps for it; raise UserError where it keeps none."""
    try:
        return template.format(name)
    except (LookupError, ValueError, AttributeError):
        raise UserError(
            f"{where}: filename_tmpl {template!r} must hold {{}} for an image's name, as in '{{}}x4'"
        ) from None


def meta_file(side: str = "") -> str:
    """Return the name of the list of a store's frames, or of their version ``side``."""
    return f"meta_info_{side}.txt" if side else "meta_info.txt"


def side_name(scale: int, kind: str, border: str) -> str:
    """Name the LR frames that a store keeps beside their HR: ``x4_BI_symmetric``, ``x4_BD``."""
    return f"x{scale}_{kind}" + (f"_{border}" if kind == "BI" else "")


# --------------------------------------------------------------------------------------------------------- list files


def unreadable(error: OSError) -> UserError:
    """Say that a file or folder cannot be read, and why."""
    said = f"{error.filename}: cannot be read ({error.strerror})"
    if error.errno in SHORT:
        return Shortage(
            f"{said}; the machine is short of open files (ulimit -n) or of memory: run fewer things at once"
        )
    return UserError(said)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a list file; raise UserError when it cannot be read.

    Only line feeds end a line: names may hold the other characters at which ``str.splitlines`` splits.
    """
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise unreadable(error) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file in UTF-8") from None


def without_suffix(name: str) -> str:
    """Return a path without its suffix, which is what stands behind the last dot of its last part."""
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix else name


def read_meta_info(path: Path) -> dict[str, tuple[int, int]]:
    """Read frame sizes (H, W) by key from BasicSR's ``meta_info.txt``."""
    shapes: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        found = _FRAME_LINE.fullmatch(line)
        height, width = (int(found["height"]), int(found["width"])) if found else (0, 0)
        if not (found and 0 < height < _MOST_SIDE and 0 < width < _MOST_SIDE):
            raise UserError(f"{path}, line {number}: expected 'key.png (h,w,c) level', got '{line[:200]}'")
        shapes[safe_key(without_suffix(found["name"]), f"{path}, line {number}")] = (height, width)
    if not shapes:
        raise UserError(f"{path}: lists no frames")
    return shapes


class Listed(NamedTuple):
    """A name in a list file: where it stands, for messages, and how many frames the line gives it, or None.

    ``line`` is the whole line as a name, for a name that ends like the size of an image.
    """

    where: str
    name: str
    frames: int | None
    line: str


def read_list(path: str | Path, roots: Mapping[Path, str] | None = None, counts: bool = True) -> Iterator[Listed]:
    """Yield the names in a list of clips or images.

    A line is ``000 100 (720,1280,3)`` (with ``counts``), ``0001.png (480,480,3)`` (without), or a name alone. Names may
    hold spaces. A line that begins with ``#`` is a comment; ``./#1`` is the name ``#1``.

    Args:
        roots: folders that the names lie in, with what names in them begin with: absolute paths become such names.

    Raises:
        UserError: the list cannot be read, or names what lies outside the roots.
    """
    path = Path(path).expanduser()
    folders = [(folder, own) for root, own in (roots or {}).items() for folder in (root.absolute(), root.resolve())]

    def inside(text: str) -> str:
        name = PurePosixPath(text)
        within = ((folder, own) for folder, own in folders if name.is_relative_to(folder))
        return str(next((PurePosixPath(own) / name.relative_to(folder) for folder, own in within), name))

    for number, line in enumerate(read_lines(path), 1):
        text, where = line.strip(), f"{path}, line {number}"
        if not text or text.startswith("#"):
            continue
        found = (_CLIP_LINE if counts else _FRAME_LINE).fullmatch(text)
        if counts and not found and _ENDS_IN_SIZE.search(text):
            raise UserError(f"{where}: expected 'clip frames (h,w,c)' or a clip's name, got '{text}'")
        if counts and found and int(found["count"]) == 0:
            raise UserError(f"{where}: gives '{found['name']}' no frames; write how many it has, or its name alone")
        name = safe_key(inside(found["name"] if found else text), where)
        yield Listed(where, name, int(found["count"]) if found and counts else None, inside(text))


def listed_name(name: str) -> str:
    """Write a name so that :func:`read_list` gives it back: not as a comment, and with the spaces at its ends.

    Raises:
        UserError: it holds a line break.
    """
    stored_key(name)
    return ("./" if name[:1].isspace() or name[:1] == "#" else "") + name + ("/" if name[-1:].isspace() else "")
