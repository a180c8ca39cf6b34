"""Frame keys such as ``000/00000012``: safety, natural order, and grouping into clips."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from kdsr_arch.errors import UserError

__all__ = ["clip_of", "first_gap", "group_clips", "natural", "read_lines", "safe_key"]


_LONGEST = 400  # characters of a key: LMDB takes 511 bytes


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``im2`` comes before ``im10``."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(p), p) if p.isdecimal() and p.isascii() else (1, 0, p) for p in parts]


def safe_key(key: str, origin: str) -> str:
    """``key`` unchanged; raises UserError when it could reach outside the data root it is relative to, or is
    too long.

    Args:
        key: relative, with forward slashes.
        origin: the file that names the key, for the message.
    """
    if len(key) > _LONGEST:
        raise UserError(f"{origin}: a key of {len(key)} characters; no more than {_LONGEST} are possible")
    path = PurePosixPath(key)
    outside = path.is_absolute() or ".." in path.parts or "\\" in key or "\0" in key or re.match(r"[A-Za-z]:", key)
    if outside or not path.parts:
        raise UserError(f"{origin}: the key '{key}' reaches outside the data root; keys are relative paths below it")
    return key


def read_lines(path: Path) -> list[str]:
    """The lines of a list file; raises UserError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file in UTF-8") from None


def clip_of(key: str) -> str:
    """The clip a frame belongs to: ``00001/0001/im4`` -> ``00001/0001``; an empty string without a folder."""
    return key.rpartition("/")[0]


def group_clips(keys: Iterable[str]) -> dict[str, list[str]]:
    """Frame keys by clip, clips and frames in natural order."""
    clips: dict[str, list[str]] = {}
    for key in sorted(keys, key=natural):
        clips.setdefault(clip_of(key), []).append(key)
    return clips


def first_gap(keys: Sequence[str]) -> tuple[str, str] | None:
    """The frames on both sides of the first missing number of a clip, if one is missing.

    Args:
        keys: of one clip, in order. Numbers may go up in steps of any one size; names that do not end in a number, or
            differ in what is before it, are not judged.
    """
    found = [re.fullmatch(r"(.*?)(\d+)", key) for key in keys]
    if len(keys) < 3 or None in found or len({match[1] for match in found if match}) > 1:
        return None
    numbers = [int(match[2]) for match in found if match]
    steps = [after - before for before, after in zip(numbers, numbers[1:], strict=False)]
    usual = min(steps)
    place = next((index for index, step in enumerate(steps) if step != usual), None)
    return None if place is None else (keys[place], keys[place + 1])
