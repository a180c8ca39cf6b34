"""Loads option files: reads, checks and completes them into typed options."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdsr_arch import plugins
from kdsr_arch.errors import OptionErrors, UserError
from kdsr_arch.io import PACKAGE, locate
from kdsr_arch.options.documents import read_parts
from kdsr_arch.options.schema import Options, Run, ValOptions
from kdsr_arch.options.schema_data import IoBackendOptions
from kdsr_arch.options.section import Section, parse_section
from kdsr_arch.options.yaml_reader import Document

logger = logging.getLogger("kdsr")


def project_root(option_file: str | Path) -> Path:
    """Return the folder whose ``experiments/`` and ``results/`` the runs of an option file write to.

    That is the folder above the ``experiments/`` or ``results/`` folder the file lies in (a run's own copy), else the
    folder above its ``options/`` folder, else the current folder.
    """
    folders = Path(os.path.abspath(option_file)).parents  # as written: experiments/ may be a link to another disk
    for names in (("experiments", "results"), ("options",)):
        for folder in folders:
            if folder.name in names:
                return folder.parent
    return Path.cwd()


def plugins_of(document: Document, path: str | Path, root: str | Path | None = None) -> list[plugins.Plugin]:
    """Find what an option file brings in: what its `imports` name, and files where BasicSR's projects have them.

    Both are looked for beside the option file, in its project's folder, and in `root`; in an experiment at last among
    the files that were imported for it.

    Raises:
        UserError: a file is not there.
    """
    given, folder = document.values.get("imports"), Path(os.path.abspath(path)).parent
    roots = [folder, project_root(path), *([Path(root).resolve()] if root is not None else [])]
    record = folder / plugins.RECORD
    folders = [*dict.fromkeys(roots), *([record] if record.is_dir() else [])]
    found = []
    for number, entry in enumerate(given if isinstance(given, list) else [given]):
        if isinstance(entry, str) and entry:  # the schema reports others
            why = f"imports of {document.source}{document.where(f'imports.{number}')}"
            found += plugins.named(entry, folders, why)
    return [*found, *plugins.beside(folders, f"{document.source}, in whose project it lies")]


def bring_in_of(path: str | Path) -> None:
    """Import what an option file that the user names brings in, without checking its options.

    Raises:
        UserError: see `plugins_of`; or a file cannot be imported.
    """
    from kdsr_arch.registry import bring_in

    for document in read_parts(path):
        bring_in(plugins_of(document, path))


def tell_import(network: str, path: Path) -> None:
    """Refuse a network that the modules of an option file have, where the user has not named that file.

    Raises:
        UserError: with the files to import, which name the network; the record of the experiment has them where the
            project has not. None is raised where no file does.
    """
    try:
        named = [plugin.file for document in read_parts(path) for plugin in plugins_of(document, path)]
    except UserError:  # a file is gone
        named = []
    for files in (dict.fromkeys(named), sorted((path.parent / plugins.RECORD).rglob("*.py"))):
        word = re.compile(rf"\b{re.escape(network)}\b".encode())
        if holding := [file for file in files if file is not None and word.search(file.read_bytes())]:
            raise UserError(
                f"there is no network named '{network}'; the modules of {path} have it, but weights import nothing by "
                f"themselves: add {' '.join(f'--import {shlex.quote(str(file))}' for file in holding)}"
            )


# ---------------------------------------------------------------------------------------------------------- checking

_OLDER_NAMES = {  # keys of older BasicSR files -> their names since 1.4
    "path": {
        "pretrain_model_g": "pretrain_network_g",
        "pretrain_model_d": "pretrain_network_d",
        "strict_load": "strict_load_g",
    },
    "datasets": {"use_flip": "use_hflip"},
}
_NOT_READ = {  # keys of BasicSR's files that only BasicSR's own training script, loader or validation read
    "": {"find_unused_parameters", "save_img", "suffix", "crop_border"},
    "path": {"ignore_resume_networks"},
    "val": {"flip_seq"},
    "datasets": {
        *("use_shuffle", "prefetch_mode", "num_prefetch_queue", "pin_memory", "persistent_workers"),
    },
}


def _adapt(values: dict[str, Any]) -> Iterator[str]:
    """Rename keys of older BasicSR files and remove keys that nothing reads, in place; yield notes for the user.

    A data set of the user's is left the keys that it may read.
    """
    from kdsr_arch.options.components import own_keys

    places = [("", "", values), *((key, f"{key}.", values.get(key)) for key in ("path", "val"))]
    datasets = values.get("datasets")
    for name, dataset in datasets.items() if isinstance(datasets, dict) else ():
        places.append(("datasets", f"datasets.{name}.", dataset))
    left_out = []
    for kind, prefix, section in places:
        if not isinstance(section, dict):
            continue
        read = own_keys(section.get("type")) if kind == "datasets" else ()
        if read is None:
            continue
        for old, new in _OLDER_NAMES.get(kind, {}).items():
            if old in section and new not in section and old not in read:
                section[new] = section.pop(old)
                yield f"{prefix}{old} is an older name of {new}; taken as that"
        for key in [key for key in section if key in _NOT_READ[kind] and key not in read]:
            del section[key]
            left_out.append(f"{prefix}{key}")
    if left_out:
        yield f"not needed here, and not read: {', '.join(left_out)}"


def check_document(document: Document, *, run: Run) -> Options:
    """Validate a document; see `load_options`.

    Raises:
        OptionErrors: all its faults at once, in the order of the file, each with its dotted key and line.
    """
    from kdsr_arch.options.components import component_faults, scale_faults

    for note in _adapt(document.values):
        logger.warning("%s: %s", document.source, note)
    opt, faults = parse_section(Options, document.values)
    opt._run = run
    faults += [*opt.faults_below(), *component_faults(opt)]
    for key, sentence in scale_faults(opt):
        if (key, sentence) not in faults:
            logger.warning("%s: %s: %s%s", document.source, key, sentence, document.where(key))
    first: dict[str, str] = {}
    for key, sentence in faults:
        first.setdefault(key, sentence)  # one sentence for each key, the schema's first
    if first:
        ordered = sorted(first.items(), key=lambda fault: document.line(fault[0]))
        raise OptionErrors([f"{key}: {sentence}{document.where(key)}" for key, sentence in ordered], document.source)
    return opt


# -------------------------------------------------------------------------------------------------------- completing


def _locate(value: Any, roots: Iterable[Path]) -> Any:
    """Resolve a path of an option file: from the current folder, or else from the first root that has it."""
    if isinstance(value, list):
        return [_locate(item, roots) for item in value]
    if not isinstance(value, str) or not value or value.startswith(PACKAGE):
        return value
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise UserError(f"{value[:200]}: there is no user of that name, so no home folder") from None
    if path.is_absolute() or _exists(path):
        return str(path)
    candidates = [root / path for root in roots]
    missing = candidates[-1 if path.parts[:1] == ("experiments",) else 0]  # what a training will write, below --root
    return str(next((path for path in candidates if _exists(path)), missing))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # far too long, or a part of it may not be looked into
        raise UserError(f"{str(path)[:200]}: cannot be looked up ({error.strerror})") from None


_PATHS_OF_DATA = ("dataroot", "meta_info", "teacher_cache", "crop_weights")


def _locate_paths(opt: Options, roots: list[Path]) -> None:
    for _, dataset in opt.all_datasets():
        _locate_keys(dataset, roots, lambda key: key.startswith(_PATHS_OF_DATA))
    _locate_keys(opt.path, roots, lambda key: key.startswith(("pretrain_network_", "resume_state")))
    for spec in opt.networks.values():
        _locate_keys(spec, roots, lambda key: key == "path" or key.endswith("_path"))


def _locate_keys(section: Section, roots: list[Path], wanted: Callable[[str], bool]) -> None:
    for key in [*type(section).model_fields, *(section.model_extra or {})]:
        value = getattr(section, key)
        if value is not None and wanted(key):
            setattr(section, key, _locate(value, roots))


def _fill_datasets(opt: Options) -> None:
    """Set name and scale of each data set, as BasicSR does; for a test, drop the training sets."""
    from kdsr_arch.options.components import registered
    from kdsr_arch.registry import is_basicsr

    if not opt.is_train:
        opt.datasets = {key: value for key, value in opt.datasets.items() if not key.startswith("train")}
    for key, dataset in opt.datasets.items():
        dataset.name = key if dataset.name is None else dataset.name  # not written, or written as null
        if is_basicsr(registered("data set", dataset.type)) and dataset.io_backend is None:
            dataset.io_backend = IoBackendOptions(type="disk")
        if opt.scale is not None:
            dataset.scale = opt.scale


def load_options(
    path: str | Path,
    *,
    is_train: bool,
    force: Iterable[str] = (),
    debug: bool = False,
    root: str | Path | None = None,
    imports: Iterable[plugins.Plugin] = (),
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
        imports: modules to import beside those of the option file.

    Returns:
        The options: defaults filled in, paths located, name and scale in each data set.

    Raises:
        UserError: the file cannot be read.
        OptionErrors: all its faults at once, each with its dotted key and line.
    """
    documents = read_parts(path, force)
    if len(documents) > 1:
        raise UserError(f"{path}: is a sequence of trainings, which `kdsr train` and `kdsr check` alone understand")
    return complete(documents[0], is_train=is_train, path=path, debug=debug, root=root, imports=imports)


def complete(
    document: Document,
    *,
    is_train: bool,
    path: str | Path,
    debug: bool = False,
    root: str | Path | None = None,
    imports: Iterable[plugins.Plugin] = (),
) -> Options:
    """Check and complete a document; see `load_options`."""
    import torch

    from kdsr_arch.registry import bring_in

    home = Path(root).resolve() if root is not None else project_root(path)
    files = bring_in([*imports, *plugins_of(document, path, root)])
    opt = check_document(document, run=Run(is_train, home, Path(os.path.abspath(path)), files))
    if not is_train and opt.val is None:
        opt.val = ValOptions()
    if debug:
        opt.name = opt.name if opt.name.startswith("debug") else f"debug_{opt.name}"
        opt.logger.print_freq, opt.logger.save_checkpoint_freq = 1, 8
        if opt.val:
            opt.val.val_freq = 8
    _fill_datasets(opt)
    _locate_paths(opt, list(dict.fromkeys([project_root(path), home])))
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if opt.num_gpu != "auto" and int(opt.num_gpu) > there:
        logger.warning("num_gpu: %s asked for, %s there; using %s", opt.num_gpu, there, there or "the CPU")
    opt.num_gpu = there if opt.num_gpu == "auto" else min(int(opt.num_gpu), there)
    return opt


# ---------------------------------------------------------------------------------------- what a run needs from outside


def missing_inputs(opt: Options) -> list[str]:
    """List the data roots, lists and weights that the options name and that do not exist."""
    paths = opt.path.plain()
    named = [value for key, value in paths.items() if key.startswith("pretrain_network")]
    for _, dataset in opt.all_datasets():
        named += [value for key, value in dataset.plain().items() if key.startswith(("dataroot", "meta_info"))]
    return [value for value in named if isinstance(value, str) and not _is_there(value)]


def _is_there(value: str) -> bool:
    try:
        return locate(value).exists()
    except UserError:
        return False


@contextmanager
def telling_needs(opt: Options) -> Iterator[None]:
    """Add the option file's `needs` to an error that comes of missing data or weights."""
    try:
        yield
    except UserError as error:
        if opt.needs and missing_inputs(opt):
            raise UserError(f"{error}. {opt.needs}") from None
        raise
