"""What a run leaves on the disk: `models/net_g_N.pth` (pure networks) and `training_states/N.state` (everything)."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdsr_arch.errors import UserError
from kdsr_arch.io import remove_leftovers, require_safetensors, save_tensors, write_groups, write_whole
from kdsr_arch.train.checkpoint import FORMAT, VERSION, numbered

_STATES = r"(\d+)\.state"
# net_g_500.pth, but not net_g_best_psnr_500.pth
_NETWORKS = r"net_(?:(?!best_)[^_]+_)+?(\d+)\.(?:pth|safetensors)"


def is_finished(root: Path, total: int) -> bool:
    """Whether the run in this folder reached its last iteration and the validation after it."""
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

        Older checkpoints go only once this one is on the disk, so that a full disk costs none.
        """
        self.save_networks(str(iteration), networks)
        head = {"format": FORMAT, "version": VERSION, "iter": iteration, "fingerprint": self.fingerprint}
        save_tensors({**head, **state}, self.states / f"{iteration}.state")
        self.thin_out(iteration)

    def save_networks(self, label: str, networks: Mapping[str, Any]) -> None:
        """Write `net_*_LABEL.pth` (or .safetensors) for each network."""
        for name, content in networks.items():
            path = self.network_file(name, label)
            if self.form == "safetensors":
                write_groups(content, path, self.about.get(name))
            else:
                save_tensors(content, path)

    def network_file(self, name: str, label: str) -> Path:
        """Where `save_networks` puts a network."""
        return self.models / f"{name}_{label}.{self.form}"

    def save_record(self, record: Mapping[str, Any], name: str = "best.json") -> None:
        """Write a small readable file beside the networks."""
        text = (json.dumps(record, indent=1) + "\n").encode()
        write_whole(self.models / name, lambda handle: handle.write(text))

    def keep_best(self, metric: str, best: Iterable[int], iteration: int, networks: Mapping[str, Any]) -> None:
        """Make `net_*_best_METRIC_N.pth` be those of the iterations in `best`, the present one's written if it is one.

        Files of later iterations are left alone: an interrupted run is about to come by there again.
        """
        wanted, label = set(best), f"best_{re.sub(r'[^A-Za-z0-9.-]', '-', metric)}"
        if iteration in wanted:
            self.save_networks(f"{label}_{iteration}", networks)
        for path in self.models.iterdir():
            found = re.fullmatch(rf"net_.+_{re.escape(label)}_(\d+)\.(?:pth|safetensors)", path.name)
            if found and int(found[1]) not in wanted and int(found[1]) <= iteration:
                path.unlink(missing_ok=True)

    def thin_out(self, newest: int) -> None:
        """Delete the numbered checkpoints before the last `keep_last` up to `newest`, which itself always stays.

        A state goes before its networks; networks whose state is gone (a kill came in between) go as well.
        """
        if self.keep_last <= 0:
            return
        kept = [iteration for iteration in numbered(self.states, _STATES) if iteration <= newest][-self.keep_last :]
        for folder, pattern in ((self.states, _STATES), (self.models, _NETWORKS)):
            for path in list(folder.iterdir()):
                found = re.fullmatch(pattern, path.name)
                if found and kept and int(found[1]) < kept[0]:
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
        if not any(iteration > position for iteration in numbered(self.states, _STATES)):
            return None
        names = (f"set_aside_{time.strftime('%Y%m%d_%H%M%S')}{tail}" for tail in ("", *(f"_{n}" for n in range(2, 99))))
        target = next(path for path in map(self.root.joinpath, names) if not path.exists())
        try:
            for path in [*self._beyond(position)]:
                place = target / path.parent.name
                place.mkdir(parents=True, exist_ok=True)
                os.rename(path, place / path.name)
            history = self.root / "history.jsonl"
            if history.is_file():
                content = history.read_bytes()
                write_whole(target / history.name, lambda handle: handle.write(content))
        except OSError as error:
            raise UserError(f"{target}: later checkpoints cannot be set aside here ({error.strerror})") from None
        return target

    def _beyond(self, position: int) -> Iterable[Path]:
        """Files of iterations after `position`; networks first, so that a kill in between is made good by a second
        call.
        """
        if self._best_iteration() > position:
            yield from (path for path in self.models.iterdir() if re.fullmatch(r"net_.+_best\.\w+", path.name))
            yield self.models / "best.json"
        yield from (path for path in self.models.iterdir() if re.fullmatch(r"net_.+_latest\.\w+", path.name))
        for folder, pattern in ((self.models, r"net_.+_(\d+)\.\w+"), (self.states, _STATES)):
            for path in list(folder.iterdir()):
                found = re.fullmatch(pattern, path.name)
                if found and int(found[1]) > position:
                    yield path

    def _best_iteration(self) -> int:
        try:
            return int(json.loads((self.models / "best.json").read_text(encoding="utf-8"))["iter"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0
