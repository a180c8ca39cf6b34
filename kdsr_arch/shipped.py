"""Files that ship with the package: option files, and weights that were trained for it."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_OPTIONS = (_PACKAGE.parent / "options", _PACKAGE / "option_files")  # of a checkout; of an installation


def option_files() -> Path:
    """Return the folder of the option files that ship with the package."""
    return next(folder for folder in _OPTIONS if folder.is_dir())


def weights_folder() -> Path:
    """Return the folder of the weights that ship with the package."""
    return _PACKAGE / "weights"


def option_file(path: str | Path) -> Path:
    """Return an option file: the one at ``path``, or else the shipped one that ``options/NAME.yml`` names."""
    path = Path(path)
    if path.exists() or path.is_absolute() or path.parts[:1] != ("options",):
        return path
    shipped = option_files().joinpath(*path.parts[1:])
    return shipped if shipped.is_file() else path
