"""The names that folders have in tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdsr_arch.data.keys import distinct_names
from kdsr_arch.errors import UserError


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
