"""What an option file needs from outside, told where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdsr_arch.errors import UserError
from kdsr_arch.options.schema import Options


def missing_inputs(opt: Options) -> list[str]:
    """Data roots, lists and weights that the options name and that do not exist."""
    paths = opt.path.plain()
    named = [value for key, value in paths.items() if key.startswith("pretrain_network")]
    for dataset in opt.datasets.values():
        for part in (dataset.plain(), *(dataset.datasets or ())):
            named += [value for key, value in part.items() if key.startswith(("dataroot", "meta_info"))]
    return [value for value in named if isinstance(value, str) and not Path(value).exists()]


@contextmanager
def telling_needs(opt: Options) -> Iterator[None]:
    """Add the option file's `needs` to an error that comes of missing data or weights."""
    try:
        yield
    except UserError as error:
        if opt.needs and missing_inputs(opt):
            raise UserError(f"{error}. {opt.needs}") from None
        raise
