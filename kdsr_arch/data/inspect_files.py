"""Looks at all files of a folder before they are needed, in parallel, and remembers them by size and time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from kdsr_arch.errors import Shortage, UserError
from kdsr_arch.io import write_bytes
from kdsr_arch.records import available_cores

_WORTH_KEEPING = 1000  # files whose headers are read anew faster than they are remembered
_MANY = 10_000  # files of which it is said that they are looked at, for it takes seconds
_AT_ONCE = 16  # headers under way: network drives answer many questions at once

Size = tuple[int, int]


def memory_file(root: Path) -> Path | None:
    """Return where it is remembered what the files of a folder are; None for a user without a home (containers)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not cache.is_absolute():
        return None
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return cache / "kdsr" / "headers" / f"{name}.json"


def inspect_files(
    root: Path, files: Mapping[str, str], look: Callable[[Path], Size], deep: bool = False
) -> dict[str, Size | str]:
    """Look at files; those that have not changed since they were last looked at are not opened.

    Args:
        files: key -> path below ``root``.
        look: returns the size (H, W) of an image file; raises UserError where it is at fault.
        deep: whether ``look`` decodes the files, which headers that are remembered do not stand for.

    Returns:
        The size by key; of a file at fault, what is wrong with it.
    """
    file = memory_file(root)
    known = _remembered(file) if file and (deep or len(files) > _WORTH_KEEPING) else {}
    fresh: dict[str, list[int]] = {}

    def result(key: str) -> Size | str:
        relative = files[key]
        try:
            facts = os.stat(root / relative)
            height, width, decoded, *stamp = known.get(relative, [0, 0, 0])
            if stamp == [facts.st_size, facts.st_mtime_ns] and decoded >= deep:
                return height, width
            size = look(root / relative)
        except OSError as error:
            return f"{root / relative}: cannot be read ({error.strerror})"
        except Shortage:
            raise
        except UserError as error:
            return str(error)
        fresh[relative] = [*size, int(deep), facts.st_size, facts.st_mtime_ns]
        return size

    if len(files) > (_WORTH_KEEPING if deep else _MANY):
        kind = "images" if deep else "headers of the images"
        logging.getLogger("kdsr").info(f"{root}: looking at the {len(files):,} {kind} that are not known yet")
    with ThreadPoolExecutor(available_cores() if deep else _AT_ONCE) as pool:
        results = dict(zip(files, pool.map(result, files), strict=True))
    if file and fresh and (deep or len(files) > _WORTH_KEEPING):
        with suppress(UserError):  # a folder that cannot be written costs the next start some time
            write_bytes(file, json.dumps(known | fresh).encode())
    return results


def _remembered(file: Path) -> dict[str, list[int]]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    sound = isinstance(content, dict) and all(
        isinstance(entry, list) and len(entry) == 5 and all(isinstance(value, int) for value in entry)
        for entry in content.values()
    )
    return content if sound else {}
