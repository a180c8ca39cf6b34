"""What an option file needs from outside, told where it is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdsr_arch.errors import UserError


def missing_inputs(opt: Mapping[str, Any]) -> list[str]:
    """Data roots, lists and weights that the options name and that do not exist."""
    named = [value for key, value in (opt.get("path") or {}).items() if key.startswith("pretrain_network")]
    for dataset in opt["datasets"].values():
        for part in (dataset, *(dataset.get("datasets") or ())):
            named += [value for key, value in part.items() if key.startswith(("dataroot", "meta_info"))]
    return [value for value in named if isinstance(value, str) and not Path(value).exists()]


@contextmanager
def telling_needs(opt: Mapping[str, Any]) -> Iterator[None]:
    """Adds the option file's `needs` to an error that comes of missing data or weights."""
    try:
        yield
    except UserError as error:
        if opt.get("needs") and missing_inputs(opt):
            raise UserError(f"{error}. {opt['needs']}") from None
        raise
