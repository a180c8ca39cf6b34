"""What `kdsr train` and `kdsr check` call: a training, a sequence of them, a dry run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kdsr_arch.device import pick_device
from kdsr_arch.log import TextLog, get_logger, telling
from kdsr_arch.options.load import telling_needs
from kdsr_arch.options.schema import Options
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import lookup
from kdsr_arch.signals import StopRequest
from kdsr_arch.train.bridge import BridgedTrainer
from kdsr_arch.train.checkpoint import random_states_kept
from kdsr_arch.train.distill_model import DistillModel
from kdsr_arch.train.run_files import is_finished
from kdsr_arch.train.trainer import Trainer


def main(parts: Sequence[Callable[[], Options]], args: Any) -> int:
    """Train one part after the other; of several, `args.auto_resume` passes over those that are finished.

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
    with distributed.joined(args.launcher, on_gpu, first.dist_params):
        for number, part in enumerate(parts, 1):
            distributed.barrier()  # until the main process has written what the part before leaves
            opt = part()
            assert opt.train is not None
            done = len(parts) > 1 and args.auto_resume and is_finished(opt.folder, opt.train.total_iter)
            if distributed.from_main(done):
                get_logger().info(f"{opt.name} ({number} of {len(parts)}): finished already")
                continue
            with telling_needs(opt):
                code = train(opt, args.auto_resume)
            if code:
                return code
    return 0


def train(opt: Options, auto_resume: bool = False) -> int:
    """Run one training, on processes that have joined already; returns its exit code (see `main`)."""
    with TextLog() as log, StopRequest() as stop, telling(log):
        finished = trainer_class(opt)(opt, stop, auto_resume).run(log)
        return 0 if finished else stop.exit_code


def trainer_class(opt: Options) -> type[Trainer]:
    """Choose our trainer, or for one of BasicSR's model types the one that leaves the step to it."""
    return Trainer if issubclass(lookup("model", opt.model_type), DistillModel) else BridgedTrainer


def dry_run(opt: Options) -> str:
    """Open the data, build the networks and run one sample through them, as `kdsr check` does.

    Returns:
        The networks and the table of terms. Nothing is written to the disk.

    Raises:
        UserError: anything that would stop the training at its start.
    """
    alone = opt.datasets["train"].model_copy(update={"num_worker_per_gpu": 0})
    path = opt.path.model_copy(update={"resume_state": None})
    with random_states_kept(), telling():
        small = opt.model_copy(update={"datasets": {**opt.datasets, "train": alone}, "path": path})
        trainer = trainer_class(small)(small)
        trainer.close()
    return trainer.model.describe()
