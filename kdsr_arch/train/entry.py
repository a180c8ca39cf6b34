"""What `kdsr train` and `kdsr check` call: a training, a sequence of them, a dry run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdsr_arch.device import keep_freed_memory, pick_device
from kdsr_arch.distill.teachers import weights_digests
from kdsr_arch.errors import UserError
from kdsr_arch.io import SAFETENSORS, save_tensors, write_groups
from kdsr_arch.log import TextLog, get_logger, telling
from kdsr_arch.options.load import telling_needs
from kdsr_arch.options.schema import Options
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import lookup
from kdsr_arch.signals import StopRequest
from kdsr_arch.train.bridge import BridgedTrainer
from kdsr_arch.train.checkpoint import load_state, random_states_kept
from kdsr_arch.train.distill_model import DistillModel
from kdsr_arch.train.resume import changes, fingerprint, other_start, other_weights, start_digests
from kdsr_arch.train.run_files import is_finished
from kdsr_arch.train.trainer import Trainer


def main(parts: Sequence[Callable[[], Options]], args: Any) -> int:
    """Train one part after the other, once all were tried; `args.auto_resume` passes over those that are finished.

    Args:
        parts: each makes the validated options of one training, when its turn has come: only then are the weights
            there that earlier parts write.
        args: `launcher` ('none', 'pytorch', 'slurm'), `auto_resume`.

    Returns:
        The exit code: 0 at the end of the training; 130 or 143 where SIGINT or SIGTERM ended it early, after saving.

    Raises:
        UserError: anything the user can mend.
    """
    first = parts[0]()
    on_gpu = pick_device(first.num_gpu).type == "cuda"
    if not on_gpu:
        keep_freed_memory()
    with distributed.joined(args.launcher, on_gpu, first.dist_params):
        if len(parts) > 1:
            with TextLog():
                get_logger().info(f"Trying the {len(parts)} parts of the sequence")
            for _ in dry_runs([part() for part in parts]):  # a later part's fault would show after days
                pass
        for number, part in enumerate(parts, 1):
            distributed.barrier()  # until the main process has written what the part before leaves
            opt = part()
            assert opt.train is not None
            done = len(parts) > 1 and args.auto_resume and is_finished(opt.folder, opt.train.total_iter)
            if distributed.from_main(done):
                _tell_finished(opt, f"{number} of {len(parts)}")
                continue
            with telling_needs(opt):
                code = train(opt, args.auto_resume)
            if code:
                return code
    return 0


def _tell_finished(opt: Options, which: str) -> None:
    assert opt.train is not None
    state = load_state(opt.folder / "training_states" / f"{opt.train.total_iter}.state")
    theirs = state["fingerprint"]
    mine = fingerprint(opt, weights=weights_digests(opt), start=start_digests(opt))
    changed = changes(theirs, mine)
    with TextLog():
        get_logger().info(f"{opt.name} ({which}): finished already")
        if changed:
            get_logger().warning(
                f"These options changed since {opt.name} was trained, and do not take effect: "
                f"{', '.join(map(str, changed))}; to train it anew, remove {opt.folder}"
            )
        if others := other_weights(opt, theirs, mine):
            get_logger().warning(
                f"The teacher's weights changed since {opt.name} was trained, which knows the old ones only: {others}; "
                f"to train it anew, remove {opt.folder}"
            )
        if others := other_start(opt, theirs, mine):
            get_logger().warning(
                f"What {opt.name} started from has changed since it was trained, and does not take effect: {others}; "
                f"to train it anew, remove {opt.folder}"
            )


def train(opt: Options, auto_resume: bool = False) -> int:
    """Run one training, on processes that have joined already; returns its exit code (see `main`)."""
    with TextLog() as log, StopRequest() as stop, telling(log):
        finished = trainer_class(opt)(opt, stop, auto_resume).run(log)
        return 0 if finished else stop.exit_code


def trainer_class(opt: Options) -> type[Trainer]:
    """Choose our trainer, or for one of BasicSR's model types the one that leaves the step to it."""
    return Trainer if issubclass(lookup("model", opt.model_type), DistillModel) else BridgedTrainer


def dry_run(opt: Options) -> str:
    """Open the data, build the networks, run a sample and a validation image through them, as `kdsr check` does.

    Returns:
        The networks and the table of terms. Nothing is written to the experiment's folder.

    Raises:
        UserError: anything that would stop the training at its start, or at the first validation.
    """
    return _tried(opt).model.describe()


def dry_runs(parts: Sequence[Options]) -> Iterator[str]:
    """Do the dry run of each part of a sequence.

    Networks that an earlier part will train stand in with random weights for the files that do not exist yet.

    Yields:
        What `dry_run` returns.

    Raises:
        UserError: see `dry_run`; or an earlier part's network is not the one that a later part starts from.
    """
    coming: dict[Path, Mapping[str, Any]] = {}  # the files that each part will write, by its folder
    with tempfile.TemporaryDirectory() as scratch:
        for opt in parts:
            stand_ins = _stand_ins(opt, coming, Path(scratch))
            path = opt.path.model_copy(update={key: str(stand_in) for key, stand_in in stand_ins.items()})
            try:
                with telling_needs(opt):
                    trainer = _tried(opt.model_copy(update={"path": path}))
            except UserError as error:
                text = str(error)
                for key, stand_in in stand_ins.items():
                    text = text.replace(str(stand_in), f"{getattr(opt.path, key)}, as an earlier part will write it")
                error.args = (text,)
                raise
            coming[opt.folder / "models"] = trainer.will_write()
            yield trainer.model.describe()


def _stand_ins(opt: Options, coming: Mapping[Path, Mapping[str, Any]], scratch: Path) -> dict[str, Path]:
    """Write files into `scratch` for those that `path` names and that do not exist, but will; by the keys of `path`.

    Raises:
        UserError: an earlier part writes its networks there, but none of that name.
    """
    found: dict[str, Path] = {}
    for key, file in opt.path.plain().items():
        path = Path(os.path.abspath(file)) if key.startswith("pretrain_network_") and file else Path()
        if path.is_file() or path.parent not in coming:
            continue
        files = coming[path.parent]
        if path.name not in files:
            raise UserError(
                f"{opt.name}: path.{key}: the earlier part that trains {path.parent.parent} will write no {path.name}; "
                f"name one of its files: {', '.join([*files][-4:])}"
            )
        stand_in = scratch / opt.name / key / path.name
        stand_in.parent.mkdir(parents=True)
        save = write_groups if path.suffix == SAFETENSORS else save_tensors
        save(files[path.name], stand_in)
        found[key] = stand_in
    return found


def _tried(opt: Options) -> Trainer:
    alone = opt.datasets["train"].model_copy(update={"num_worker_per_gpu": 0})
    path = opt.path.model_copy(update={"resume_state": None})
    with random_states_kept(), telling():
        small = opt.model_copy(update={"datasets": {**opt.datasets, "train": alone}, "path": path})
        trainer = trainer_class(small)(small)
        trainer.close()
        if isinstance(trainer, BridgedTrainer):
            trainer.try_step()
    return trainer
