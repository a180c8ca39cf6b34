"""From an option file to the typed options that everything else reads."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kdsr_arch.errors import UserError
from kdsr_arch.options.check import check_document
from kdsr_arch.options.schema import Options, Run, ValOptions
from kdsr_arch.options.schema_data import IoBackendOptions
from kdsr_arch.options.sequence import read_parts
from kdsr_arch.options.types import Section
from kdsr_arch.options.yaml_reader import Document

logger = logging.getLogger("kdsr")


def project_root(option_file: str | Path) -> Path:
    """The folder whose ``experiments/`` and ``results/`` an option file's runs write to.

    That is the folder above the ``experiments/`` or ``results/`` folder the file lies in (a run's own copy), else the
    folder above its ``options/`` folder, else the current folder.
    """
    folders = Path(option_file).resolve().parents
    for names in (("experiments", "results"), ("options",)):
        for folder in folders:
            if folder.name in names:
                return folder.parent
    return Path.cwd()


def plain(opt: Options | Mapping[str, Any]) -> dict[str, Any]:
    """The options as the nested dict that BasicSR's models read: with folders, phases and a single process's rank."""
    if isinstance(opt, Mapping):
        return dict(opt)
    values, folder = opt.plain(), str(opt.folder)
    path = {"experiments_root" if opt.is_train else "results_root": folder, "log": folder}
    path["visualization"] = str(opt.folder / "visualization")
    if opt.is_train:
        path |= {"models": str(opt.folder / "models"), "training_states": str(opt.folder / "training_states")}
    values["path"] |= path
    for key, dataset in values["datasets"].items():
        dataset["phase"] = key.split("_")[0]
    return values | {"is_train": opt.is_train, "dist": False, "rank": 0, "world_size": 1}


def _locate(value: Any, roots: Iterable[Path]) -> Any:
    """A path as the option file means it: from the current folder, or else from the first root that has it."""
    if isinstance(value, list):
        return [_locate(item, roots) for item in value]
    if not isinstance(value, str) or not value or value.startswith("package:"):
        return value
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise UserError(f"{value[:200]}: there is no user of that name, so no home folder") from None
    if path.is_absolute() or _exists(path):
        return str(path)
    candidates = [root / path for root in roots]
    return str(next((found for found in candidates if _exists(found)), candidates[0]))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # far too long, or a part of it may not be looked into
        raise UserError(f"{str(path)[:200]}: cannot be looked up ({error.strerror})") from None


_DATA_PATHS = ("dataroot", "meta_info", "teacher_cache")


def _locate_paths(opt: Options, roots: list[Path]) -> None:
    for dataset in opt.datasets.values():
        _locate_keys(dataset, roots, lambda key: key.startswith(_DATA_PATHS))
        for part in dataset.datasets or ():
            for key in part:
                part[key] = _locate(part[key], roots) if key.startswith(_DATA_PATHS) else part[key]
    _locate_keys(opt.path, roots, lambda key: key.startswith(("pretrain_network_", "resume_state")))
    for spec in opt.networks.values():
        _locate_keys(spec, roots, lambda key: key == "path" or key.endswith("_path"))


def _locate_keys(section: Section, roots: list[Path], wanted: Callable[[str], bool]) -> None:
    for key in [*type(section).model_fields, *(section.model_extra or {})]:
        value = getattr(section, key)
        if value is not None and wanted(key):
            setattr(section, key, _locate(value, roots))


def _fill_datasets(opt: Options) -> None:
    """Name and scale, as BasicSR sets them; a test leaves the training set alone."""
    from kdsr_arch.options.known import lookup
    from kdsr_arch.registry import is_basicsr

    if not opt.is_train:
        opt.datasets = {key: value for key, value in opt.datasets.items() if not key.startswith("train")}
    for key, dataset in opt.datasets.items():
        dataset.name = key if dataset.name is None else dataset.name  # not written, or written as null
        if is_basicsr(lookup("data set", dataset.type)) and dataset.io_backend is None:
            dataset.io_backend = IoBackendOptions(type="disk")
        if opt.scale is not None:
            dataset.scale = opt.scale


def _set_debug(opt: Options) -> None:
    """BasicSR's debug mode: everything happens every few iterations, under a name of its own."""
    if not opt.name.startswith("debug"):
        opt.name = f"debug_{opt.name}"
    if opt.val:
        opt.val.val_freq = 8
    opt.logger.print_freq, opt.logger.save_checkpoint_freq = 1, 8


def _count_gpus(wanted: int | str) -> int:
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return there
    if int(wanted) > there:
        logger.warning("num_gpu: %s asked for, %s there; going on with %s", wanted, there, there or "the CPU")
    return min(int(wanted), there)


def load_options(
    path: str | Path,
    *,
    is_train: bool,
    force: Iterable[str] = (),
    debug: bool = False,
    root: str | Path | None = None,
) -> Options:
    """Read, check and complete an option file. Nothing is created on disk.

    Args:
        path: the option file.
        is_train: for training (experiments/NAME) or for testing (results/NAME).
        force: ``key:sub=value`` entries of ``--force_yml``.
        debug: BasicSR's debug mode (name ``debug_NAME``, validation and checkpoints every 8 iterations).
        root: the folder that ``experiments/`` and ``results/`` stand in. Default: `project_root` of the file. Relative
            paths in the file are taken from the current folder or, where nothing is there, from the project's folder,
            then from `root`.

    Returns:
        The options: defaults filled in, paths located, name and scale in each data set.

    Raises:
        UserError: the file cannot be read.
        OptionErrors: all its faults at once, each with its dotted key and line.
    """
    documents = read_parts(path, force)
    if len(documents) > 1:
        raise UserError(f"{path}: is a sequence of trainings, which `kdsr train` and `kdsr check` alone understand")
    return complete(documents[0], is_train=is_train, path=path, debug=debug, root=root)


def complete(
    document: Document, *, is_train: bool, path: str | Path, debug: bool = False, root: str | Path | None = None
) -> Options:
    """The checked and completed options of a document; see `load_options`."""
    opt = check_document(document, is_train=is_train)
    home = Path(root).resolve() if root is not None else project_root(path)
    opt._run = Run(is_train, home, Path(os.path.abspath(path)))
    if not is_train and opt.val is None:
        opt.val = ValOptions()
    if debug:
        _set_debug(opt)
    _fill_datasets(opt)
    _locate_paths(opt, list(dict.fromkeys([project_root(path), home])))
    opt.num_gpu = _count_gpus(opt.num_gpu)
    return opt
