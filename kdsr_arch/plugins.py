"""Modules from outside the package: files of a user's project, and installed plug-ins; found and imported here.

Code is brought in by an option file that the user names (its `imports`, and files where BasicSR's projects have them,
see `ROOMS`), by the command line's ``--import``, and by the entry points of the group `ENTRY_POINTS`: never by weights
or by what lies beside them. `kdsr_arch.registry.bring_in` calls what is here, and undoes an import that fails.

A file gets the name by which its own project imports it, from a folder put on ``sys.path``: no file runs twice, and
the loader's processes find a data set's class under that name, spawned ones too.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from kdsr_arch.errors import UserError, first_line, nearest

ENTRY_POINTS = "kdsr.plugins"
ROOMS = {"archs": "_arch", "losses": "_loss", "data": "_dataset", "metrics": "_metric", "models": "_model"}
"""The folders of BasicSR's projects, with the endings of the files in them that register by themselves."""
RECORD = "imports"
"""The folder of an experiment that holds the files imported for it."""
_INSTALLED = {"site-packages", "dist-packages"}
_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class PluginFile:
    """A file of a plug-in as it was imported.

    Attributes:
        name: its path from the folder of ``sys.path`` that it is below: ``archs/my_arch.py``.
        content: its bytes.
    """

    name: str
    content: bytes

    @property
    def digest(self) -> str:
        """The beginning of the SHA-256 of the content."""
        return hashlib.sha256(self.content).hexdigest()[:12]


@dataclass(frozen=True)
class Plugin:
    """A module to import.

    Attributes:
        why: what asks for it, for messages: ``--import my_arch.py``.
        name: the module, where the user gives that; of a file it follows from `roots`.
        file: the file; None for an installed module.
        roots: folders of the project that the file is of.
    """

    why: str
    name: str = ""
    file: Path | None = None
    roots: tuple[Path, ...] = ()

    @property
    def text(self) -> str:
        """What `imports` says to get this module from anywhere."""
        return str(self.file) if self.file is not None else self.name


# ------------------------------------------------------------------------------------------------------------- finding


def named(entry: str, folders: Sequence[Path], why: str) -> list[Plugin]:
    """Find what one entry of `imports` stands for.

    Args:
        entry: a module (``my_project.archs``), a file (``./losses/edge.py``), or a folder: its ``__init__.py`` or,
            where there is none, its `ROOMS`, or the files of a folder that is one of them.
        folders: where it may lie, in order; a module that lies nowhere there is an installed one.
        why: see `Plugin`.

    Raises:
        UserError: there is no such file, or it is no Python file.
    """
    roots = tuple(folders)
    if not _is_path(entry):
        for folder in folders:
            place = folder.joinpath(*entry.split("."))
            for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
                if os.path.isfile(file):
                    return [Plugin(why, entry, file, (folder, *roots))]
            if found := _in_folder(place, why, roots):
                return found
        return [Plugin(why, entry)]
    path = _expanded(entry)
    existing = next((folder / path for folder in folders if os.path.exists(folder / path)), None)
    if existing is None:
        raise UserError(f"{why}: there is no {entry[:200]} in {' or '.join(map(str, folders))}{_near(path, folders)}")
    place = Path(os.path.abspath(existing))
    if place.is_dir():
        init = place / "__init__.py"
        if found := [Plugin(why, file=init, roots=roots)] if init.is_file() else _in_folder(place, why, roots):
            return found
        rooms = ", ".join(f"{room}/*{ending}.py" for room, ending in ROOMS.items())
        raise UserError(f"{why}: the folder {place} has no __init__.py and none of {rooms}; name the files in it")
    if place.suffix != ".py":
        raise UserError(f"{why}: {place} is no Python file (.py)")
    return [Plugin(why, file=place, roots=roots)]


def _in_folder(folder: Path, why: str, roots: Sequence[Path]) -> list[Plugin]:
    """Find the files in the `ROOMS` of a folder, or of a folder that is such a room itself."""
    found = beside([folder, folder.parent] if folder.name in ROOMS else [folder], why, roots)
    return [plugin for plugin in found if plugin.file and plugin.file.is_relative_to(folder)]


def _is_path(entry: str) -> bool:
    return entry.endswith(".py") or entry.startswith((".", "~")) or "/" in entry or os.sep in entry


def _expanded(entry: str) -> Path:
    try:
        return Path(entry).expanduser()
    except RuntimeError:  # there is no user of that name
        return Path(entry)


def _near(path: Path, folders: Iterable[Path]) -> str:
    places = {(folder / path).parent for folder in folders}
    return nearest(path.name, {file.name for place in places if os.path.isdir(place) for file in place.glob("*.py")})


def beside(folders: Iterable[Path], why: str, roots: Sequence[Path] = ()) -> list[Plugin]:
    """Find the files in the `ROOMS` of folders that name a registry; of two that hold the same file, the first counts.

    Others register nothing there: a project may have ``models/`` of another kind.
    """
    found: dict[str, Plugin] = {}
    for folder, (room, ending) in itertools.product(dict.fromkeys(folders), ROOMS.items()):
        place = folder / room
        for file in sorted(place.glob(f"*{ending}.py")) if os.path.isdir(place) else ():
            if file.is_file() and b"_REGISTRY" in file.read_bytes():
                plugin = Plugin(why, file=Path(os.path.abspath(file)), roots=(folder, *roots))
                found.setdefault(f"{room}/{file.name}", plugin)
    return list(found.values())


def installed() -> list[Plugin]:
    """List the modules that installed packages name in the entry points of the group `ENTRY_POINTS`."""
    found: dict[str, Plugin] = {}
    for point in entry_points(group=ENTRY_POINTS):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        found.setdefault(point.module, Plugin(f"the plug-in '{point.name}' of {package}", point.module))
    return list(found.values())


# ----------------------------------------------------------------------------------------------------------- importing

_loaded: dict[tuple[str, Path | None], tuple[PluginFile, ...]] = {}


def load(plugin: Plugin) -> tuple[PluginFile, ...]:
    """Import a module; return the files that came with it. A second call returns the same.

    Raises:
        UserError: the file's name is taken by another module.
        Exception: whatever importing raises; `forget` then takes away what it left.
    """
    key = plugin.name, plugin.file
    if key not in _loaded:
        importlib.invalidate_caches()  # for files written a moment ago
        base, name = _place(plugin)
        before = set(sys.modules)
        importlib.import_module(name)
        came = [each for each in sys.modules if each not in before and _belongs(each, name, [base] if base else [])]
        files = map(_file_of, dict.fromkeys([name, *came]))
        _loaded[key] = tuple(file for file in files if file is not None)
    return _loaded[key]


def forget(plugin: Plugin, before: Iterable[str]) -> None:
    """Take the modules of a failed import away, so that a next one runs them again.

    Args:
        plugin: the module that failed.
        before: the names that `sys.modules` had.
    """
    for name in set(sys.modules).difference(before):
        if _belongs(name, plugin.name, _home(plugin)):
            del sys.modules[name]


def _place(plugin: Plugin) -> tuple[Path | None, str]:
    """Return the folder that the module is imported from, now on ``sys.path``, and its name.

    The folders of packages come before others, as that of the script does in Python; those of single files come last,
    so that a ``logging.py`` beside the file is not taken for Python's.
    """
    if plugin.file is None:
        return None, plugin.name
    if plugin.name:  # as in Python, what is imported already counts
        _search(plugin.roots[0])
        return plugin.roots[0], plugin.name
    taken = ""
    for base, name in _names(plugin.file, plugin.roots):
        _search(base, first="." in name or plugin.file.name == "__init__.py")
        for root in plugin.roots:
            _search(root, first=False)
        if not (taken := _instead(name, base, plugin.file)):
            return base, name
    raise UserError(f"its name is taken by {taken}; rename the file")


def _search(folder: Path, first: bool = True) -> None:
    """Put a folder on ``sys.path``."""
    if first and str(folder) in sys.path:
        sys.path.remove(str(folder))
    if str(folder) not in sys.path:
        sys.path.insert(0 if first else len(sys.path), str(folder))


def _names(file: Path, roots: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Yield (folder, name) by which a file may be imported: as a part of its packages and rooms, then alone."""
    alone = [] if file.name == "__init__.py" else [file.stem]
    parts, folder = [*alone], file.parent
    while (
        not parts
        or (folder == file.parent and folder.name in ROOMS)
        or (folder not in roots and (folder / "__init__.py").is_file())
    ):
        parts.insert(0, folder.name)
        folder = folder.parent
    yield folder, ".".join(parts)
    if alone:
        yield file.parent, file.stem


def _instead(name: str, base: Path, file: Path) -> str:
    """Say what importing a name would give in place of a file; nothing where it gives the file. Nothing is run."""
    top = name.split(".")[0]
    module = sys.modules.get(name, sys.modules.get(top))
    if module is not None:
        origin, places = getattr(module, "__file__", None), getattr(module, "__path__", None)
    else:
        spec = next((s for finder in sys.meta_path if (s := finder.find_spec(top, None))), None)
        origin, places = (spec.origin, spec.submodule_search_locations) if spec else (None, None)
    if top == name or name in sys.modules:
        right = origin is not None and _same(Path(origin), file)
    else:
        right = str(base / top) in (places or ())
    return "" if right else f"{name if name in sys.modules else top} ({origin or 'of Python'})"


def _same(one: Path, other: Path) -> bool:
    """Tell whether two files are one, or hold the same: an experiment's record of a file is as good as the file."""
    return one.is_file() and (os.path.samefile(one, other) or one.read_bytes() == other.read_bytes())


def _belongs(name: str, plugin: str, folders: Iterable[Path]) -> bool:
    """Tell whether a module is of a plug-in's package, or lies below its folders and is not installed there."""
    top = name.split(".")[0]
    file = getattr(sys.modules[name], "__file__", None)
    return top == plugin.split(".")[0] or (top != _PACKAGE.name and file is not None and _is_in(file, folders))


def _is_in(file: str, folders: Iterable[Path]) -> bool:
    path = Path(file)
    return not _INSTALLED & {*path.parts} and any(path.is_relative_to(folder) for folder in folders)


def _file_of(name: str) -> PluginFile | None:
    """Read the source of an imported module; None where it has none."""
    file = Path(getattr(sys.modules.get(name), "__file__", None) or "")
    path = f"{name.replace('.', '/')}{'/__init__' if file.name == '__init__.py' else ''}.py"
    try:
        return PluginFile(path, file.read_bytes()) if file.suffix == ".py" else None
    except OSError:  # in an archive
        return None


# ------------------------------------------------------------------------------------------------------ what went wrong


def _home(plugin: Plugin) -> list[Path]:
    return [*plugin.roots, plugin.file.parent] if plugin.file else []


def place_of(error: BaseException, plugin: Plugin) -> str:
    """Return the file and line of a plug-in in which importing it failed: ``/p/archs/my_arch.py, line 7``."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not Path(f.filename).is_relative_to(_PACKAGE)]
    own = [frame for frame in frames if _is_in(frame.filename, _home(plugin))]
    if plugin.file is None:
        own = [frame for frame in frames if plugin.name.split(".")[0] in re.split(r"[\\/.]", frame.filename)]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else plugin.text


def is_missing(error: BaseException, plugin: Plugin) -> bool:
    """Tell whether importing failed because there is no module of that name, rather than inside of it."""
    absent = error.name if isinstance(error, ModuleNotFoundError) else None
    return plugin.file is None and bool(absent) and f"{plugin.name}.".startswith(f"{absent}.")


def reason_of(error: BaseException) -> str:
    """Return what went wrong, without the place."""
    if isinstance(error, SystemExit):
        return "it ends the program as it is imported; put that under if __name__ == '__main__'"
    said = error.msg if isinstance(error, SyntaxError) else first_line(error)
    return said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"
