"""Data sets and their loaders from options, with faults told in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from kdsr_arch.data.prefetch import ahead_on_device
from kdsr_arch.data.sampling import build_train_loader
from kdsr_arch.errors import UserError
from kdsr_arch.log import get_logger
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import build


def open_dataset(opt: Mapping[str, Any], key: str) -> Any:
    """Make the registered data set that `opt` describes.

    Args:
        opt: `type` and its options.
        key: where it stands in the option file, for messages.

    Raises:
        UserError: unknown type, or data that is missing or at fault.
    """
    try:
        for part in (opt, *opt.get("datasets", ())):
            _prepare(part)
    except OSError as error:
        raise UserError(f"{key}: {error.filename or ''}: {error.strerror or error}") from None
    given = {name: value for name, value in opt.items() if name != "phase"}
    offer = {name: opt[name] for name in ("phase", "scale", "name") if opt.get(name) is not None}
    return build("data set", DatasetOptions.model_validate(given), key, offer=offer)


def _prepare(opt: Mapping[str, Any]) -> None:
    """Make the data that `prepare` names where `dataroot_gt` expects them, unless they are there.

    A `dataroot_gt` of another name than the recipe makes is left to be told as missing: nothing is written there.
    """
    root = Path(opt.get("dataroot_gt") or "")
    if not opt.get("prepare") or distributed.from_main(root.exists()):  # one answer: another may see it half made
        return
    from kdsr_arch.data.prepare.demo_data import make_demo_clips, make_demo_images

    make, suffix = {"demo": (make_demo_clips, ".lmdb"), "images": (make_demo_images, "")}[opt["prepare"]]
    if root.name not in (f"train_GT{suffix}", f"test_GT{suffix}"):
        return
    get_logger().info(f"{root} is missing: making it (prepare: {opt['prepare']}; once, some seconds)")
    if distributed.is_main():
        make(root.parent)
    distributed.barrier()


def phase_sets(opt: Mapping[str, Any], phase: str) -> dict[str, Any]:
    """Open every data set of a phase: 'val' opens `val`, `val_2`, ..."""
    keys = [k for k in opt["datasets"] if k.split("_")[0] == phase]
    return {k: open_dataset(opt["datasets"][k], f"datasets.{k}") for k in keys}


class Batches(Iterator[dict[str, Any]]):
    """One batch for each iteration, its micro-batches joined.

    To be closed: workers that outlive it would be waited for when the program ends.

    Args:
        loader: gives `accumulation` batches for each iteration, one after the other.
        device: where they are wanted; on CUDA an iteration's worth is copied ahead.
        ahead: whether to draw ahead on the CPU as well, which gains nothing there.

    Raises:
        UserError: a sample that cannot be read.
    """

    def __init__(
        self,
        loader: Any,
        accumulation: int = 1,
        device: torch.device | str = "cpu",
        ahead: bool = False,
    ) -> None:
        device = torch.device(device)
        depth = accumulation if ahead or device.type == "cuda" else 0
        self._source, self._accumulation = ahead_on_device(loader, device, depth), accumulation
        self._held: list[dict[str, Any]] = []

    def peek(self) -> dict[str, Any] | None:
        """The batch that comes next, None at the end."""
        if not self._held:
            self._held = [batch for batch in (self._draw(),) if batch is not None]
        return self._held[0] if self._held else None

    def __next__(self) -> dict[str, Any]:
        batch = self._held.pop() if self._held else self._draw()
        if batch is None:
            raise StopIteration
        return batch

    def _draw(self) -> dict[str, Any] | None:
        parts = list(islice(self._source, self._accumulation))
        if len(parts) <= 1:
            return parts[0] if parts else None
        joined: dict[str, Any] = {k: torch.cat([p[k] for p in parts]) for k in ("lq", "gt")}
        if "teacher" in parts[0]:
            joined["teacher"] = {k: torch.cat([p["teacher"][k] for p in parts]) for k in parts[0]["teacher"]}
        return {**parts[0], **joined}

    def close(self) -> None:
        """Send the workers home; harmless when there are none."""
        self._source.close()  # reaches the loader's iterator, a generator that ends its workers


def train_batches(
    opt: Mapping[str, Any],
    dataset: Any,
    start: int,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
) -> Batches:
    """The batches of iterations `start` + 1 to `train.total_iter`, on `device`."""
    accumulation = opt["train"].get("accumulation") or 1
    loader = build_train_loader(
        opt["datasets"]["train"],
        dataset,
        seed=opt["manual_seed"],
        rank=rank,
        world=world,
        start_iter=start,
        total_iter=opt["train"]["total_iter"],
        accumulation=accumulation,
    )
    return Batches(loader, accumulation, device)
