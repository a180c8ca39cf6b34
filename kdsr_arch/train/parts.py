"""`kdsr train` on a file with a `sequence`: its parts, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kdsr_arch.device import pick_device
from kdsr_arch.log import get_logger
from kdsr_arch.options import Options
from kdsr_arch.options.load import telling_needs
from kdsr_arch.parallel import distributed
from kdsr_arch.train.run_files import is_finished
from kdsr_arch.train.trainer import train_one

Part = Callable[[], Options]


def main(parts: Sequence[Part], args: Any) -> int:
    """Train the parts; with `args.auto_resume` those that are finished are passed over.

    Args:
        parts: each makes the validated options of one training, when its turn has come: only then are the weights
            there that earlier parts write.
        args: as of `kdsr_arch.train.trainer.main`.

    Returns:
        The exit code of the first part that did not reach its end, else 0.

    Raises:
        UserError: anything the user can mend.
    """
    first = parts[0]()
    on_gpu = pick_device(first.num_gpu).type == "cuda"
    with distributed.joined(args.launcher, on_gpu, first.dist_params.plain()):
        for number, part in enumerate(parts, 1):
            distributed.barrier()  # until the main process has written what the part before leaves
            opt = part()
            done = args.auto_resume and is_finished(opt.folder, opt.train.total_iter if opt.train else 0)
            if distributed.from_main(done):
                get_logger().info(f"{opt.name} ({number} of {len(parts)}): finished already")
                continue
            with telling_needs(opt):
                code = train_one(opt, args)
            if code:
                return code
    return 0
