"""Trainings by option file or by a dict of options, as ``kdsr train`` runs them."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from kdsr_arch.commands import train as command
from kdsr_arch.commands.common import LAUNCHERS, load_parts
from kdsr_arch.device import kernels_kept, own_gradients, own_precision
from kdsr_arch.errors import UserError, one_of
from kdsr_arch.options.yaml_reader import describe, write_values
from kdsr_arch.signals import Ended
from kdsr_arch.train import entry


def train(
    options: str | PathLike[str] | Mapping[str, Any],
    *,
    root: str | PathLike[str] | None = None,
    auto_resume: bool = False,
    launcher: str = "none",
) -> Path:
    """Train as ``kdsr train -opt FILE`` does, with checkpoints, logs and validation.

    Args:
        options: an option file, or what it would hold.
        root: the folder for ``experiments/``; the option file's project by default, for a dict the current folder.
        auto_resume: go on from the newest whole state, if there is one.
        launcher: 'none', or 'pytorch' in a script that torchrun started.

    Returns:
        The experiment's folder; its ``models/net_g_latest.pth`` is the student. Of a `sequence`, the last part's.

    Raises:
        UserError: any fault of the options, all at once, or of the training.
        KeyboardInterrupt: it was interrupted; the state is saved, and `auto_resume` goes on from it.
    """
    one_of("kdsr.train", "launcher", launcher, LAUNCHERS)
    with _as_file(options) as path, own_precision("cpu"), own_precision("cuda"), own_gradients(), kernels_kept():
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        words = ["-opt", str(path), "--launcher", launcher, *(["--auto_resume"] if auto_resume else [])]
        args = parser.parse_args([*words, *(["--root", str(root)] if root is not None else [])])
        parts = load_parts(args)
        code = entry.main(parts, args)
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise Ended(code)
        return parts[-1]().folder


@contextmanager
def _as_file(options: str | PathLike[str] | Mapping[str, Any]) -> Iterator[Path]:
    """Give an option file; one that holds the options of a dict lasts as long as the block."""
    if not isinstance(options, (str, PathLike, Mapping)):
        raise UserError(f"options: expected an option file or a dict of options, not {describe(options)}")
    if not isinstance(options, Mapping):
        yield Path(options)
        return
    text = write_values(_plain(options))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "options.yml"
        path.write_text(text, encoding="utf-8")
        try:
            yield path
        except UserError as error:
            error.args = (str(error).replace(str(path), "options"),)
            raise


def _plain(value: Any, key: str = "") -> Any:
    """Copy what an option file can hold.

    Raises:
        UserError: something else, with its dotted key.
    """
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{key}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PathLike):
        return str(value)
    if isinstance(value, type):
        raise UserError(f"options: {key}: give the registered name '{value.__name__}', not the class")
    if type(value) not in (str, int, float, bool, type(None)):
        kind = type(value).__name__
        raise UserError(f"options: {key}: no option file holds a {kind}; give a number, a text, a list or a dict")
    return value
