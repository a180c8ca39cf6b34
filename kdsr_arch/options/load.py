"""From an option file to the plain nested dict that the engine, the models and BasicSR's classes read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdsr_arch.errors import UserError
from kdsr_arch.options.check import check_document
from kdsr_arch.options.schema import ValOptions
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


def plain(section: Section) -> dict[str, Any]:
    """A validated section as a plain dict, with the defaults that its `fill` lets through."""
    values: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        extra = field.json_schema_extra
        special = isinstance(extra, dict) and "only_with" in extra
        filled = section.fill == "all" or (section.fill == "values" and value is not None)
        if name in section.model_fields_set or (filled and not special):
            values[name] = _plain(value)
    return {**values, **{key: _plain(value) for key, value in (section.model_extra or {}).items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return plain(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


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


def _locate_paths(opt: dict[str, Any], roots: list[Path]) -> None:
    for dataset in opt["datasets"].values():
        _locate_keys(dataset, roots, lambda key: key.startswith(_DATA_PATHS))
        for part in dataset.get("datasets") or ():
            _locate_keys(part, roots, lambda key: key.startswith(_DATA_PATHS))
    _locate_keys(opt["path"], roots, lambda key: key.startswith(("pretrain_network_", "resume_state")))
    networks = [spec for key, spec in opt.items() if key.startswith("network_") and isinstance(spec, dict)]
    for spec in networks:
        _locate_keys(spec, roots, lambda key: key == "path" or key.endswith("_path"))


def _locate_keys(section: dict[str, Any], roots: list[Path], wanted: Any) -> None:
    for key in section:
        if wanted(key):
            section[key] = _locate(section[key], roots)


def _fill_datasets(opt: dict[str, Any], is_train: bool) -> None:
    """Phase and scale, as BasicSR sets them; a test leaves the training set alone."""
    from kdsr_arch.options.known import is_basicsr, lookup

    if not is_train:
        opt["datasets"] = {key: value for key, value in opt["datasets"].items() if not key.startswith("train")}
    for key, dataset in opt["datasets"].items():
        if dataset.get("name") is None:  # not written, or written as null
            dataset["name"] = key
        if is_basicsr(lookup("data set", dataset["type"])):
            dataset.setdefault("io_backend", {"type": "disk"})
        dataset["phase"] = key.split("_")[0]
        if opt.get("scale") is not None:
            dataset["scale"] = opt["scale"]


def _fill_paths(opt: dict[str, Any], root: Path, is_train: bool) -> None:
    folder = root / ("experiments" if is_train else "results") / opt["name"]
    path = opt["path"]
    path["experiments_root" if is_train else "results_root"] = str(folder)
    path["log"], path["visualization"] = str(folder), str(folder / "visualization")
    if is_train:
        path["models"], path["training_states"] = str(folder / "models"), str(folder / "training_states")


def _set_debug(opt: dict[str, Any]) -> None:
    """BasicSR's debug mode: everything happens every few iterations, under a name of its own."""
    if not opt["name"].startswith("debug"):
        opt["name"] = f"debug_{opt['name']}"
    if opt.get("val"):
        opt["val"]["val_freq"] = 8
    opt["logger"]["print_freq"], opt["logger"]["save_checkpoint_freq"] = 1, 8


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
    auto_resume: bool = False,
    root: str | Path | None = None,
) -> dict[str, Any]:
    """Read, check and complete an option file. Nothing is created on disk.

    Args:
        path: the option file.
        is_train: for training (experiments/NAME) or for testing (results/NAME).
        force: ``key:sub=value`` entries of ``--force_yml``.
        debug: BasicSR's debug mode (name ``debug_NAME``, validation and checkpoints every 8 iterations).
        auto_resume: stored as ``opt['auto_resume']``.
        root: the folder that ``experiments/`` and ``results/`` stand in. Default: `project_root` of the file. Relative
            paths in the file are taken from the current folder or, where nothing is there, from the project's folder,
            then from `root`.

    Returns:
        BasicSR's plain nested dict: defaults filled in, ``path`` with its folders, ``phase`` and ``scale`` in each data
        set, ``dist``, ``rank`` and ``world_size`` of a single process.

    Raises:
        UserError: the file cannot be read.
        OptionErrors: all its faults at once, each with its dotted key and line.
    """
    documents = read_parts(path, force)
    if len(documents) > 1:
        raise UserError(f"{path}: is a sequence of trainings, which `kdsr train` and `kdsr check` alone understand")
    opt = complete(documents[0], is_train=is_train, path=path, debug=debug, root=root)
    opt["auto_resume"] = auto_resume
    return opt


def complete(
    document: Document, *, is_train: bool, path: str | Path, debug: bool = False, root: str | Path | None = None
) -> dict[str, Any]:
    """The checked and completed options of a document; see `load_options`."""
    opt = plain(check_document(document, is_train=is_train))
    home = Path(root).resolve() if root is not None else project_root(path)
    if not is_train:
        opt["val"] = {**plain(ValOptions()), **opt.get("val", {})}
    if debug:
        _set_debug(opt)
    _fill_datasets(opt, is_train)
    _locate_paths(opt, list(dict.fromkeys([project_root(path), home])))
    _fill_paths(opt, home, is_train)
    opt["num_gpu"] = _count_gpus(opt["num_gpu"])
    opt.update(is_train=is_train, auto_resume=False, dist=False, rank=0, world_size=1)
    opt.update(root_path=str(home), opt_path=os.path.abspath(path))
    return opt
