"""The scripts are `kdsr lmdb create` for one kind of data each; they run from a clone that is not installed, too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kdsr_arch.cli import main  # noqa: E402


def create(kind: str) -> None:
    """Run `kdsr lmdb create --kind KIND` with the script's arguments and exit with its code."""
    sys.exit(main(["lmdb", "create", "--kind", kind, *sys.argv[1:]]))
