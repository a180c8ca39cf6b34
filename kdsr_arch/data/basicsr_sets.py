"""BasicSR's own data sets: what they stumble over is told as the fault of the file it is in."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_convert

from kdsr_arch.data.image_file import READABLE, decode_image
from kdsr_arch.data.keys import fill_template, read_lines, unreadable
from kdsr_arch.data.sources import LmdbSource
from kdsr_arch.data.store.codec import ImageFileCodec, codec_of
from kdsr_arch.data.store.lmdb_store import close_all
from kdsr_arch.errors import UserError, first_line
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.registry import is_basicsr

_TORN = "does not decode (truncated, damaged or not an image)"


@contextmanager
def checked_files(options: DatasetOptions) -> Iterator[None]:
    """Refuse files that a data set of BasicSR cannot read before it is made, and those that it meets then.

    Raises:
        UserError: a store that is not whole, or one of tiles; one folder or store for both sides; a `mean` without a
            `std`; a list with a blank line; an image that cannot be read or does not decode.
    """
    roots = [root for root in (options.dataroot_gt, options.dataroot_lq) if isinstance(root, str)]
    if len(roots) == 2 and len({Path(root).resolve() for root in roots}) == 1 and not options.filename_tmpl:
        raise UserError(
            f"dataroot_gt and dataroot_lq are both {roots[0]}: {options.type} makes no low-resolution images; name "
            "theirs in dataroot_lq, or take ImagePairDataset or ClipDataset, which make them of dataroot_gt alone"
        )
    if options.filename_tmpl:
        fill_template(options.filename_tmpl, "", options.type)
    if (options.mean is None) != (options.std is None):
        raise UserError(f"mean and std: {options.type} needs both or neither; give the other one, or take this one out")
    if 0 in (options.std or ()):
        raise UserError(f"std: {options.std} holds a zero, by which nothing can be divided")
    for root in roots:
        if root.rstrip("/").endswith(".lmdb"):
            source = LmdbSource(root)
            tiled = any(not isinstance(codec_of(data), ImageFileCodec) for _, data in source.values(source.keys()[:1]))
            close_all()  # BasicSR opens the store itself, which LMDB allows once in a process
            if tiled:
                raise UserError(
                    f"{root}: is a store of tiles, which {options.type} cannot read; take ImagePairDataset or "
                    f"ClipDataset, or make one that it reads: kdsr lmdb convert {root} NEW.lmdb --codec png"
                )
    if options.meta_info_file:
        lines = read_lines(Path(options.meta_info_file))
        blank = next((number for number, line in enumerate(lines[:-1], 1) if not line.strip()), None)
        if blank is not None:
            raise UserError(
                f"{options.meta_info_file}, line {blank}: is blank, which {options.type} cannot read; take it out"
            )
    try:
        yield
    except UserError as error:
        files = (path for root in roots for path in sorted(Path(root).rglob("*")))
        torn = next(filter(_is_torn, files), None) if "NoneType" in str(error) else None  # what decoding gave it
        raise UserError(f"{torn}: {_TORN}; replace or remove it") if torn else error from None


@contextmanager
def _seeded(entropy: Sequence[int]) -> Iterator[None]:
    """Seed the global generators of ``random``, NumPy and torch, and put them back at the end."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        first, second, third = (int(s) for s in np.random.SeedSequence(entropy).generate_state(3))
        random.seed(first)
        np.random.seed(second)
        torch.default_generator.manual_seed(third)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def read_item(dataset: Any, index: int, entropy: Sequence[int]) -> Any:
    """Return ``dataset[index]``, its NumPy arrays as tensors; what it draws at random depends on `entropy` alone.

    Raises:
        UserError: a data set of BasicSR cannot read it, whatever it raised.
    """
    try:
        with _seeded(entropy):
            return default_convert(dataset[index])
    except Exception as error:
        if isinstance(error, UserError) or not is_basicsr(type(dataset)):
            raise
        if isinstance(error, KeyError) and error.args[0] not in dataset.opt:
            raise UserError(f"{type(dataset).__name__}: needs the key {error.args[0]!r} in its section") from error
        if isinstance(error, OSError) and error.filename:
            raise unreadable(error) from error
        item, name = _item(dataset, index), type(dataset).__name__
        torn = next(filter(_is_torn, _files(item)), None)
        if torn is not None:
            raise UserError(f"{torn}: {_TORN}; replace or remove it ({name})") from error
        where = " and ".join(map(str, item)) or f"item {index}"
        raise UserError(f"{where}: {first_line(error)} ({name})") from error


def _item(dataset: Any, index: int) -> list[Path]:
    """Name what an item is made of: its files, or the keys or folders of its frames."""
    if hasattr(dataset, "paths"):
        entry = dataset.paths[index]
        sides = entry.values() if isinstance(entry, Mapping) else [entry]
        return [Path(side) for side in sides]
    if hasattr(dataset, "keys"):
        return [Path(root, dataset.keys[index]) for root in (dataset.gt_root, dataset.lq_root)]
    if hasattr(dataset, "folders"):
        return [Path(root, dataset.folders[index]) for root in (dataset.gt_root, dataset.lq_root)]
    info = getattr(dataset, "data_info", {})
    sides = [info[side][index] for side in ("gt_path", "lq_path") if side in info]
    return [Path(side if isinstance(side, str) else side[len(side) // 2]) for side in sides]


def _files(item: Iterable[Path]) -> Iterator[Path]:
    """Yield the files of an item, those of a window's other frames last."""
    yield from (path for path in item if path.is_file())
    for path in item:
        folder = path if path.is_dir() else path.parent
        yield from sorted(folder.iterdir()) if folder.is_dir() else ()


def _is_torn(path: Path) -> bool:
    """Tell whether an image file does not decode; raise UserError where it cannot be read."""
    try:
        return path.suffix.lower() in READABLE and decode_image(path.read_bytes()) is None
    except OSError as error:
        raise unreadable(error) from None
