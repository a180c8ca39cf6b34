"""`kdsr train`: from validated options to a trained network. Reads from top to bottom."""

from __future__ import annotations

import json
import os
import random
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdsr_arch.data.loader import Batches, open_dataset, phase_sets, train_batches
from kdsr_arch.device import pick_device
from kdsr_arch.errors import UserError
from kdsr_arch.io import write_whole
from kdsr_arch.log import TextLog, get_logger
from kdsr_arch.options import Options, plain
from kdsr_arch.parallel import distributed
from kdsr_arch.records import environment
from kdsr_arch.registry import register_all
from kdsr_arch.signals import StopRequest
from kdsr_arch.train.checkpoint import (
    differences,
    find_latest,
    fingerprint,
    load_state,
    random_states_kept,
)
from kdsr_arch.train.history import History, Trackers
from kdsr_arch.train.locks import FolderLock
from kdsr_arch.train.loop import Loop, Output
from kdsr_arch.train.run_files import Checkpoints
from kdsr_arch.train.validation import Validator


def main(opt: Options | dict[str, Any], args: Any) -> int:
    """Train.

    Nothing is created on the disk before the data, the networks, their weights and the state to resume were found
    sound.

    Args:
        opt: validated options.
        args: `opt` (path of the option file), `launcher` ('none', 'pytorch', 'slurm'), `auto_resume`.

    Returns:
        The exit code: 0 at the end of the training; 130 or 143 where SIGINT or SIGTERM ended it early, after saving.

    Raises:
        UserError: anything the user can mend.
    """
    opt = plain(opt)
    device = pick_device(opt.get("num_gpu", 0))
    with distributed.joined(args.launcher, device.type == "cuda", opt.get("dist_params")):
        return train_one(opt, args)


def train_one(opt: Options | dict[str, Any], args: Any) -> int:
    """`main`, on processes that have joined already."""
    with TextLog() as log, StopRequest() as stop:
        return _train(plain(opt), args, log, stop)


def _train(opt: dict[str, Any], args: Any, log: TextLog, stop: StopRequest) -> int:
    root = Path(opt["path"]["experiments_root"])
    get_logger().info(f"{opt['name']}: {opt['model_type']}, {distributed.world_size()} process(es), {environment()}")
    seed_everything(opt.get("manual_seed") or 0)
    Trackers.check(opt)

    checkpoints = open_checkpoints(opt, root)
    state = find_state(opt, root / "training_states", args.auto_resume)
    position = state["iter"] if state else 0
    alike_everywhere(opt, position)
    model, batches = build(opt, position)
    lock = FolderLock(root)
    try:
        validator = Validator(opt, phase_sets(opt, "val"), model.device, root / "visualization")
        distributed.broadcast_modules(model.modules())
        get_logger().info(model.describe())
        if distributed.is_main():
            lock.acquire()
        output = open_folder(root, checkpoints, opt, args, log, position) if distributed.is_main() else None
        distributed.barrier()
        loop = Loop(model, batches, validator, checkpoints, stop, opt, output, position)
        if state:
            loop.resume(state)
        finished = _run(loop, root)
    finally:
        batches.close()
        lock.release()
    return 0 if finished else stop.exit_code


def _run(loop: Loop, root: Path) -> bool:
    began = time.monotonic()
    try:
        finished = loop.run()
    except UserError as error:
        if isinstance(error, distributed.ProcessLost):
            error.args = (f"{error}; {loop.kept()}, go on with --auto_resume",)
        get_logger().error(str(error), extra={"quiet": True})  # the command line tells it
        raise
    finally:
        if loop.output is not None:
            loop.output.history.close()
            loop.output.trackers.close()
    spent = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - began))
    if finished:
        file = loop.checkpoints.network_file("net_g", "latest")
        get_logger().info(f"Finished {loop.total:,} iterations ({spent}): {file}")
    else:
        get_logger().warning(f"Stopped at iteration {loop.position:,} and saved; --auto_resume goes on from here")
    return finished


# ----------------------------------------------------------------------------------------------------- the parts


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, differently on each process (initial weights are broadcast)."""
    seed = (seed + distributed.rank()) % 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True


def build_model(opt: Mapping[str, Any]) -> Any:
    """The model that `model_type` names: one of ours, or one of BasicSR's behind a bridge."""
    register_all()
    from kdsr_arch.train.bridge import BridgedModel
    from kdsr_arch.train.distill_model import ImageDistillModel, VideoDistillModel

    own = {c.__name__: c for c in (ImageDistillModel, VideoDistillModel)}
    return own.get(opt["model_type"], BridgedModel)(opt)


def build(opt: Mapping[str, Any], position: int) -> tuple[Any, Batches]:
    """The model, ready to train after a dry run on the first batch, and the batches from `position` on."""
    dataset = open_dataset(opt["datasets"]["train"], "datasets.train")
    model = build_model(opt)
    if hasattr(model, "task") and getattr(dataset, "teacher", None) is not None:
        dataset.teacher.keep(model.task.teacher_names())
    batches = train_batches(opt, dataset, position, distributed.rank(), distributed.world_size(), model.device)
    try:
        first = batches.peek()
        if first is None:  # resumed at its end: nothing is left to train, but the dry run still needs a batch
            first = next(train_batches(opt, dataset, opt["train"]["total_iter"] - 1))
        model.prepare(first)
    except BaseException:
        batches.close()
        raise
    return model, batches


def find_state(opt: Mapping[str, Any], folder: Path, auto_resume: bool) -> dict[str, Any] | None:
    """The state to go on from: with --auto_resume the newest whole one of this experiment, where there is one; else
    `path.resume_state`.

    Raises:
        UserError: `path.resume_state` is unusable.
    """
    mine = fingerprint(opt)
    path, state = None, None
    if auto_resume:
        path, state, passed = find_latest(folder, mine)
        for reason in passed:
            get_logger().warning(f"passed over: {reason}")
    if state is None and opt["path"].get("resume_state"):
        path = Path(opt["path"]["resume_state"]).expanduser()
        state = load_state(path, mine)
    if state is None:
        return None
    get_logger().info(f"Resuming from iteration {state['iter']:,}: {path}")
    if changed := differences(state["fingerprint"], mine, soft=True):
        get_logger().warning(f"These options changed since the state was saved: {', '.join(changed)}")
    before, now = _samples(state["fingerprint"], len(state["random"])), _samples(mine)
    if before not in (0, now):
        get_logger().warning(
            f"An iteration took {before} samples when the state was saved and takes {now} now, so training does not go "
            "on with the samples that came next: keep processes x batch_size_per_gpu x accumulation as it was"
        )
    if state["iter"] > opt["train"]["total_iter"]:
        raise UserError(f"{path}: is past train.total_iter {opt['train']['total_iter']:,}")
    return state


def _samples(held: Mapping[str, str], processes: int | None = None) -> int:
    """Samples of one iteration of the experiment whose fingerprint is `held`; 0 where it does not tell."""
    try:
        dataset, train = (json.loads(held[key]) or {} for key in ("~datasets.train", "~train"))
        each = int(dataset.get("batch_size_per_gpu") or 1) * int(train.get("accumulation") or 1)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return 0
    return each * (processes or distributed.world_size())


def alike_everywhere(opt: Mapping[str, Any], position: int) -> None:
    """Make sure that all processes train the same from the same iteration on.

    Raises:
        UserError: they read different option files, or do not see the same experiment folder.
    """
    mine = {f"~{k.lstrip('~')}": v for k, v in fingerprint(opt).items() if k != "~datasets.train"}  # folders may differ
    mine["~batch_size_per_gpu"] = str(opt["datasets"]["train"].get("batch_size_per_gpu"))
    starts = distributed.gather((position, mine))
    if len({where for where, _ in starts}) > 1:
        raise UserError(
            f"the processes would go on from different iterations ({', '.join(f'{where:,}' for where, _ in starts)}): "
            "the folder of experiments must be on a file system that all machines share"
        )
    if changed := [key for _, theirs in starts for key in differences(theirs, starts[0][1], soft=True)]:
        raise UserError(f"the processes read different option files ({changed[0]} differs): give all machines the same")


def open_checkpoints(opt: Mapping[str, Any], root: Path) -> Checkpoints:
    """What writes the files of the experiment folder `root`; nothing is written yet."""
    logger = opt["logger"]
    about = {"net_g": {"network": dict(opt["network_g"]), "scale": opt["scale"]}} if opt.get("scale") else None
    return Checkpoints(
        root, fingerprint(opt), logger.get("keep_last") or 0, logger.get("checkpoint_format") or "pth", about
    )


def open_folder(
    root: Path, checkpoints: Checkpoints, opt: Mapping[str, Any], args: Any, log: TextLog, position: int
) -> Output:
    """Make the experiment folder (a fresh run's predecessor is archived beside it) and open the logs in it."""
    stamp = time.strftime("%Y%m%d_%H%M%S")
    try:
        if not position and root.exists():
            archive(root, stamp)
        checkpoints.make_folders()
        if position and (aside := checkpoints.set_aside(position)):
            get_logger().warning(f"Checkpoints later than iteration {position:,} were set aside: {aside}")
        log.open(root / f"train_{Path(opt['name']).name}_{stamp}.log")
        _copy_options(args, root)
        return Output(History(root / "history.jsonl", position), Trackers(opt, root / "tb_logger", position))
    except OSError as error:
        raise UserError(f"{root}: the experiment folder cannot be written ({error.strerror or error})") from None


def archive(root: Path, stamp: str) -> None:
    """Rename the folder of an earlier run, as BasicSR does."""
    names = (f"{root.name}_archived_{stamp}{tail}" for tail in ("", *(f"_{n}" for n in range(2, 1000))))
    target = next(path for path in map(root.with_name, names) if not path.exists())
    os.rename(root, target)
    get_logger().info(f"{root} exists: it was renamed to {target.name}")


def _copy_options(args: Any, root: Path) -> None:
    source = Path(getattr(args, "opt", None) or "")
    if source.is_file():
        head = f"# GENERATE TIME: {time.asctime()}\n# CMD:\n# {shlex.join(sys.argv)}\n\n"
        text = (head + source.read_text(encoding="utf-8")).encode()
        write_whole(root / source.name, lambda handle: handle.write(text))  # it may be the very file that is read


def dry_run(opt: Options | dict[str, Any]) -> str:
    """What `kdsr check` does after the options were found valid: open the data, build the networks, run one sample
    through.

    Returns:
        The networks and the table of terms. Nothing is written to the disk.

    Raises:
        UserError: anything that would stop the training at its start.
    """
    opt = plain(opt)
    seed_everything(opt.get("manual_seed") or 0)
    alone = {**opt["datasets"]["train"], "num_worker_per_gpu": 0, "batch_size_per_gpu": 1}
    small = {**opt, "datasets": {**opt["datasets"], "train": alone}, "train": {**opt["train"], "accumulation": 1}}
    with random_states_kept():
        model, _ = build(small, 0)
        Validator(opt, phase_sets(opt, "val"), model.device, Path())
    return model.describe()


__all__ = ["build", "build_model", "dry_run", "main", "train_one"]
