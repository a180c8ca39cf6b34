"""The folder of an experiment: `models/net_g_N.pth` (pure networks), `training_states/N.state` (everything), a lock."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from kdsr_arch.errors import UserError
from kdsr_arch.io import remove_leftovers, require_safetensors, save_tensors, write_bytes, write_groups
from kdsr_arch.locks import STAMP, archive, claimed, unused
from kdsr_arch.log import get_logger
from kdsr_arch.options.schema import Options
from kdsr_arch.plugins import RECORD
from kdsr_arch.train.checkpoint import FORMAT, STATES, VERSION, numbered

# net_g_500.pth, but not net_g_best_psnr_500.pth
_NETWORKS = r"net_(?:(?!best_)[^_]+_)+?(\d+)\.(?:pth|safetensors)"


def is_finished(root: Path, total: int) -> bool:
    """Tell whether the run in this folder reached its last iteration and the validation after it."""
    return (root / "training_states" / f"{total}.state").is_file() and any((root / "models").glob("net_*_latest.*"))


class Checkpoints:
    """Writes and thins out the files of one experiment folder.

    Args:
        root: the experiment folder.
        mine: its fingerprint.
        keep_last: how many numbered checkpoints stay; 0 for all.
        form: of the files of networks: 'pth' or 'safetensors'.
        about: what a .safetensors file says of each network by its file's name: {'net_g': {'network', 'scale'}}.

    Raises:
        UserError: `form` asks for a package that is not installed.
    """

    def __init__(
        self,
        root: Path,
        mine: Mapping[str, str],
        keep_last: int = 0,
        form: str = "pth",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.root, self.models, self.states = root, root / "models", root / "training_states"
        self.fingerprint, self.keep_last = dict(mine), keep_last
        self.form, self.about = form, dict(about or {})
        if form == "safetensors":
            require_safetensors("logger.checkpoint_format: safetensors")

    def make_folders(self) -> None:
        """Create the folders, and remove what an earlier, killed save left aside."""
        for folder in (self.models, self.states):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)

    def save(self, iteration: int, networks: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write `net_*_N.pth` and `N.state`, the state last: where there is a state, its networks are there as well.

        Older checkpoints, before the last `keep_last` up to this one, go only once it is on the disk, so that a full
        disk costs none; a state goes before its networks. Networks whose state is gone (a kill came in between) go too.
        """
        self.save_networks(str(iteration), networks)
        head = {"format": FORMAT, "version": VERSION, "iter": iteration, "fingerprint": self.fingerprint}
        save_tensors({**head, **state}, self.state_file(iteration))
        if self.keep_last > 0:
            states = numbered(self.states, STATES)
            kept = [number for number, _ in states if number <= iteration][-self.keep_last :]
            for number, path in (*states, *numbered(self.models, _NETWORKS)):
                if number < kept[0]:
                    path.unlink(missing_ok=True)

    def save_networks(self, label: str, networks: Mapping[str, Any]) -> None:
        """Write `net_*_LABEL.pth` (or .safetensors) for each network."""
        for name, content in networks.items():
            path = self.network_file(name, label)
            if self.form == "safetensors":
                write_groups(content, path, self.about.get(name))
            else:
                save_tensors(content, path)
            for form in {"pth", "safetensors"} - {self.form}:  # older, from before checkpoint_format was changed
                path.with_suffix(f".{form}").unlink(missing_ok=True)

    def state_file(self, iteration: int) -> Path:
        """Return where `save` puts the state."""
        return self.states / f"{iteration}.state"

    def network_file(self, name: str, label: str) -> Path:
        """Return where `save_networks` puts a network."""
        return self.models / f"{name}_{label}.{self.form}"

    def save_record(self, record: Mapping[str, Any]) -> None:
        """Write `best.json` beside the networks."""
        write_bytes(self.models / "best.json", (json.dumps(record, indent=1) + "\n").encode())

    def keep_best(self, metric: str, best: Iterable[int], iteration: int, networks: Mapping[str, Any]) -> None:
        """Make `net_*_best_METRIC_N.pth` be those of the iterations in `best`, the present one's written if it is one.

        Files of later iterations are left alone: an interrupted run is about to come by there again.
        """
        wanted, label = set(best), f"best_{re.sub(r'[^A-Za-z0-9.-]', '-', metric)}"
        if iteration in wanted:
            self.save_networks(f"{label}_{iteration}", networks)
        for number, path in numbered(self.models, rf"net_.+_{re.escape(label)}_(\d+)\.(?:pth|safetensors)"):
            if number not in wanted and number <= iteration:
                path.unlink(missing_ok=True)

    def set_aside(self, position: int) -> Path | None:
        """Move what an earlier run left beyond `position` into `set_aside_TIME/`, so that going on from there neither
        overwrites nor counts it; nothing moves where no later state is.

        These are later states, their networks, and the best networks of later validations; the history up to there is
        copied.

        Returns:
            The folder, or None where there was nothing.

        Raises:
            UserError: the folder cannot be made or a file not be moved.
        """
        if not any(iteration > position for iteration, _ in numbered(self.states, STATES)):
            return None
        target = unused(self.root / f"set_aside_{time.strftime(STAMP)}")
        try:
            for path in [*self._beyond(position)]:
                place = target / path.parent.name
                place.mkdir(parents=True, exist_ok=True)
                os.rename(path, place / path.name)
            history = self.root / "history.jsonl"
            if history.is_file():
                write_bytes(target / history.name, history.read_bytes())
        except OSError as error:
            raise UserError(f"{target}: later checkpoints cannot be set aside here ({error.strerror})") from None
        return target

    def _beyond(self, position: int) -> Iterable[Path]:
        """Yield the files after iteration `position`, networks first: a second call makes good a kill in between."""
        try:
            best = int(json.loads((self.models / "best.json").read_text(encoding="utf-8"))["iter"])
        except (OSError, ValueError, KeyError, TypeError):
            best = 0
        if best > position:
            yield from (path for path in self.models.iterdir() if re.fullmatch(r"net_.+_best\.\w+", path.name))
            yield self.models / "best.json"
        yield from (path for path in self.models.iterdir() if re.fullmatch(r"net_.+_latest\.\w+", path.name))
        files = (*numbered(self.models, r"net_.+_(\d+)\.\w+"), *numbered(self.states, STATES))
        yield from (path for iteration, path in files if iteration > position)


# ------------------------------------------------------------------------------------------ the folder as a whole


def is_own(folder: Path, state: Path) -> bool:
    """Tell whether a state is one of the run in this folder: not of another experiment, nor of a branch set aside."""
    return state.parent.resolve() == (folder / "training_states").resolve()


def open_folder(opt: Options, checkpoints: Checkpoints, position: int, origin: Path | None = None) -> str:
    """Make the experiment folder; archive that of an earlier run beside it, unless this run resumes it.

    Args:
        position: iterations done by the run in this folder; 0 for a new run.
        origin: the state of another run that a new one goes on from. The history that lies beside it is copied.

    Returns:
        The time of the start, which is in the names of the files of this run.

    Raises:
        OSError: it cannot be written.
    """
    stamp, root = time.strftime(STAMP), opt.folder
    # before `archive`, which may move them
    lines = _history_beside(origin) if origin is not None else b""
    options = opt.source.read_text(encoding="utf-8") if opt.source.is_file() else None
    if not position:
        archive(root, stamp)
    checkpoints.make_folders()
    if lines:
        write_bytes(root / "history.jsonl", lines)
    if position and (aside := checkpoints.set_aside(position)):
        get_logger().warning(f"Checkpoints later than iteration {position:,} were set aside: {aside}")
    if options is not None:
        head = f"# GENERATE TIME: {time.asctime()}\n# CMD:\n# {shlex.join(sys.argv)}\n\n"
        write_bytes(root / opt.source.name, (head + options).encode())  # it may be the file that is read
    if opt.imported:
        get_logger().info(f"Imported: {', '.join(file.name for file in opt.imported)}")
    for file in opt.imported:
        write_bytes(root / RECORD / file.name, file.content)
    return stamp


def _history_beside(state: Path) -> bytes:
    """Read the history of the run that a state is of; nothing where the state was taken out of its folder."""
    history = state.parent.parent / "history.jsonl"
    return history.read_bytes() if state.parent.name == "training_states" and history.is_file() else b""


def folder_lock(folder: Path) -> AbstractContextManager[None]:
    """Lock an experiment folder for this process; see `claimed`."""
    return claimed(folder, "is training here; stop it first, or give this run another 'name'", keep=True)
