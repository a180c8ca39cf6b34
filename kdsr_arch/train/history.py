"""Where the numbers of a run go: `history.jsonl`, TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from kdsr_arch.errors import UserError, first_line
from kdsr_arch.io import remove_leftovers, why_not_written, write_bytes
from kdsr_arch.log import get_logger
from kdsr_arch.options.schema import Options

_WANDB_ID = "wandb_id.txt"


def read_history(experiment: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of an experiment's `history.jsonl`, whole lines only: a kill may leave half a line."""
    path = experiment / "history.jsonl"
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        yield from (record for line in lines if (record := _whole_record(line)) is not None)


def _whole_record(line: str) -> dict[str, Any] | None:
    """Parse a line of `history.jsonl`; None where it is torn or holds something else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    iteration = record.get("iter") if isinstance(record, dict) else None
    return record if isinstance(iteration, int) and 0 <= iteration < 1 << 53 else None


def logged_number(value: Any) -> float | None:
    """Return a logged quantity as a number to compute with; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        return None
    return float(value)


class History:
    """`history.jsonl`: one line for each logged iteration and each validation, without times.

    A resumed run continues the lines of the run it resumes, so that the file of an interrupted run equals the
    unbroken one's; where it ends before the state, a warning says so.

    Args:
        path: the file.
        position: iterations done.
        period: iterations between two lines; 0 where nobody knows.
    """

    def __init__(self, path: Path, position: int = 0, period: int = 0) -> None:
        self.path, iterations = path, [0]
        remove_leftovers(path.parent)
        if path.exists():  # drop what lies after `position`, and the validation at it, which is about to be repeated
            kept = []
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                record = _whole_record(line)
                if record is None:
                    continue  # torn by a kill, or blank after a power cut: what comes behind it is whole
                if record["iter"] < position or (record["iter"] == position and record.get("kind") == "train"):
                    kept.append(line)
                    iterations.append(record["iter"])
            write_bytes(path, "".join(f"{line}\n" for line in kept).encode())  # whole: a kill must not cost lines
        last, usual = max(iterations), max([period, *(two - one for one, two in pairwise(sorted(iterations)))])
        if period and position - last >= usual:  # lines were further apart where print_freq was another
            held = f"ends at iteration {last:,}" if last else "holds nothing"
            get_logger().warning(
                f"{path}: {held}, but the state is of iteration {position:,}: curves and comparisons will lack what "
                "lies between"
            )
        self._handle = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed by `close`)

    def add(self, kind: str, iteration: int, **content: Any) -> None:
        """Append one record; `kind` is 'train' or 'val'.

        Raises:
            UserError: it cannot be written; a resumed run drops what was written of it.
        """
        self._write(lambda: self._handle.write(json.dumps({"kind": kind, "iter": iteration, **content}) + "\n"))

    def sync(self) -> None:
        """Put the lines on the disk, so that they outlive a power cut."""
        self._write(lambda: os.fsync(self._handle.fileno()))

    def _write(self, work: Callable[[], Any]) -> None:
        try:
            work()
            self._handle.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({why_not_written(error)})") from None

    def close(self) -> None:
        """Close the file; what could not be written before is not tried again."""
        with suppress(OSError):
            self._handle.close()


class Trackers:
    """TensorBoard and, on top of it as in BasicSR, Weights & Biases.

    Making them starts the run of Weights & Biases, which may fail, and touches nothing of the experiment; `open` begins
    to write there. A resumed training goes on in the same run, whose id is in `wandb_id.txt`.

    Args:
        opt: validated options.
        position: iterations done.

    Raises:
        UserError: one is asked for but not installed, or Weights & Biases does not start.
    """

    def __init__(self, opt: Options, position: int = 0) -> None:
        (self._tensorboard, wandb), self._position = self.modules(opt), position
        self._folder, self._writer, self._run = opt.folder, None, None
        if wandb:
            self._run = self._start(wandb, opt)

    def _start(self, wandb: Any, opt: Options) -> Any:
        options, file = opt.logger.wandb, self._folder / _WANDB_ID
        assert options is not None
        run_id = options.resume_id
        if not run_id and self._position and file.is_file():
            run_id = file.read_text(encoding="utf-8").strip()
        known = {"id": run_id, "resume": "allow"} if run_id else {}
        try:
            return wandb.init(
                name=opt.name, project=options.project, config=opt.plain(), sync_tensorboard=True, **known
            )
        except Exception as error:
            raise UserError(
                f"logger.wandb: Weights & Biases does not start ({first_line(error)}); log in with 'wandb login', set "
                "WANDB_MODE=offline, or take logger.wandb out"
            ) from error

    def open(self) -> None:
        """Begin to write into the experiment folder."""
        if self._run is not None:
            write_bytes(self._folder / _WANDB_ID, f"{self._run.id}\n".encode())
        if self._tensorboard is not None:
            purge = self._position + 1 if self._position else None
            self._writer = self._tensorboard.SummaryWriter(log_dir=str(self._folder / "tb_logger"), purge_step=purge)

    @staticmethod
    def modules(opt: Options) -> tuple[Any, Any]:
        """Import those of TensorBoard and Weights & Biases that the options ask for; the others are None."""
        wants_wandb = bool(opt.logger.wandb and opt.logger.wandb.project)
        wants_board = opt.logger.use_tb_logger or wants_wandb
        return (
            _installed("use_tb_logger", "TensorBoard", "torch.utils.tensorboard") if wants_board else None,
            _installed("wandb", "Weights & Biases", "wandb") if wants_wandb else None,
        )

    def add(self, prefix: str, values: Mapping[str, float], iteration: int) -> None:
        """Record scalars under BasicSR's tags, for charts of both: `losses/l_NAME`, everything else `PREFIX/NAME`.

        Where they cannot be written, say so once and go on without.
        """
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                self._writer.add_scalar(f"{'losses' if name.startswith('l_') else prefix}/{name}", value, iteration)
        except OSError as error:
            get_logger().warning(f"TensorBoard's log cannot be written ({why_not_written(error)}): it ends here")
            self._writer = None

    def close(self) -> None:
        """Flush and close; the next training of this process begins a run of its own."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
        if self._run is not None:
            with suppress(Exception):  # of the network; the training is done
                self._run.finish()


def _installed(key: str, name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.rpartition(".")[2]
        raise UserError(f"logger.{key}: {name} is not installed (pip install {package})") from None
