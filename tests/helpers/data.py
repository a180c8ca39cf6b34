"""Where the tests find real data and golden vectors."""

from __future__ import annotations

import os
from pathlib import Path

from tests.helpers import ROOT


def data_folder() -> Path | None:
    """Return the folder of real images, clips and weights: $KDSR_DATA, or ../shared/data; None without one."""
    folder = Path(os.environ.get("KDSR_DATA") or ROOT.parent / "shared" / "data")
    return folder if folder.is_dir() else None


def vector_folders() -> list[Path]:
    """Return the folders of golden vectors: $KDSR_VECTORS, or ../shared/vectors and tests/golden."""
    named = os.environ.get("KDSR_VECTORS")
    return [Path(named)] if named else [ROOT.parent / "shared" / "vectors", ROOT / "tests" / "golden"]
