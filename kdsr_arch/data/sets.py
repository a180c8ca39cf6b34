"""Data sets from options, with faults told in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdsr_arch.errors import UserError
from kdsr_arch.log import get_logger
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import build


def open_dataset(options: DatasetOptions, key: str) -> Any:
    """Make the registered data set that a section describes, and first the data that its `prepare` names.

    Args:
        key: where it stands in the option file, `datasets.PHASE`; for messages, and for the phase.

    Raises:
        UserError: unknown type, or data that is missing or at fault.
    """
    phase = key.rpartition(".")[2].partition("_")[0]
    try:
        for part in (options, *(options.datasets or ())):
            _prepare(part)
    except OSError as error:
        raise UserError(f"{key}: {error.filename or ''}: {error.strerror or error}") from None
    return build("data set", options, key, offer={"phase": phase, "scale": options.scale, "name": options.name})


def _prepare(options: DatasetOptions) -> None:
    """Make the data that `prepare` names where `dataroot_gt` expects them, unless they are there.

    A `dataroot_gt` of another name than the recipe makes is left to be told as missing: nothing is written there.
    """
    if not options.prepare:
        return
    root = Path(options.dataroot_gt if isinstance(options.dataroot_gt, str) else "")
    if distributed.from_main(root.exists()):  # one answer: another may see it half made
        return
    from kdsr_arch.data.prepare.demo_data import make_demo_clips, make_demo_images

    make, suffix = {"demo": (make_demo_clips, ".lmdb"), "images": (make_demo_images, "")}[options.prepare]
    if root.name not in (f"train_GT{suffix}", f"test_GT{suffix}"):
        return
    get_logger().info(f"{root} is missing: making it (prepare: {options.prepare}; once, some seconds)")
    if distributed.is_main():
        make(root.parent)
    distributed.barrier()
