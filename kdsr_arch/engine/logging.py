"""Where a run's words and numbers go: console, text log, `history.jsonl`, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import platform
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from kdsr_arch import distributed
from kdsr_arch.errors import UserError
from kdsr_arch.files import remove_leftovers, why_not_written, write_whole

LOG_BYTES = 16 * 2**20
LOG_PARTS = 3
"""A text log of more than LOG_BYTES goes on in a fresh file; so many older parts (.1, .2, .3) stay."""
_FORMAT = logging.Formatter("%(asctime)s %(levelname)s: %(message)s")


class _Console(logging.Handler):
    """Prints above a progress bar, if there is one; records marked `quiet` are for the file only."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "quiet", False):
            return
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        try:
            tqdm.write(prefix + record.getMessage(), file=sys.stderr)
            sys.stderr.flush()
        except OSError:  # whoever was listening is gone (a closed pipe or terminal); the log file goes on
            return


class _File(logging.handlers.RotatingFileHandler):
    """The text log: bounded, and never a reason to stop; where it cannot be written the console is told once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=LOG_PARTS, encoding="utf-8")
        self.setFormatter(_FORMAT)
        self._failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name that logging calls)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError) or self._failed:
            return None if self._failed else super().handleError(record)
        self._failed = True
        with suppress(OSError):
            tqdm.write(f"warning: {self.baseFilename}: cannot be written ({why_not_written(error)})", file=sys.stderr)


class _Held(logging.Handler):
    """Keeps what was said before the log file could be opened."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def get_logger() -> logging.Logger:
    """The logger of this project."""
    return logging.getLogger("kdsr")


class TextLog:
    """The project's and BasicSR's messages, on the console and, once `open` was called, in a file.

    Only the main process speaks; the others report errors.
    """

    def __init__(self) -> None:
        self._held = _Held()
        self._handlers: list[logging.Handler] = [_Console(), self._held]

    def __enter__(self) -> TextLog:
        from basicsr.utils.logger import initialized_logger

        initialized_logger["basicsr"] = True  # else BasicSR would add a handler of its own at its first message
        for logger in self._loggers():
            logger.setLevel(logging.INFO if distributed.is_main() else logging.ERROR)
            logger.propagate = False
            for handler in self._handlers:
                logger.addHandler(handler)
        logging.getLogger("basicsr").setLevel(logging.WARNING)  # its information repeats ours
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers():
            for handler in self._handlers:
                logger.removeHandler(handler)
        for handler in self._handlers:
            handler.close()

    @staticmethod
    def _loggers() -> list[logging.Logger]:
        return [get_logger(), logging.getLogger("kdsr_arch"), logging.getLogger("basicsr")]

    def open(self, path: Path) -> None:
        """Write to `path` from now on, what was said so far first."""
        handler = _File(path)
        for record in self._held.records:
            handler.emit(record)
        for logger in self._loggers():
            logger.removeHandler(self._held)
            logger.addHandler(handler)
        self._handlers = [handler, *[h for h in self._handlers if h is not self._held]]


def environment() -> str:
    """Versions and machine, one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPU cores, {device}"


def whole_record(line: str) -> dict[str, Any] | None:
    """A line of `history.jsonl`; None where it is torn or holds something else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    iteration = record.get("iter") if isinstance(record, dict) else None
    return record if isinstance(iteration, int) and 0 <= iteration < 1 << 53 else None


def logged_number(value: Any) -> float | None:
    """A logged quantity as a number that can be computed with; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        return None
    return float(value)


class History:
    """`history.jsonl`: one line for each logged iteration and each validation, without times.

    A resumed run continues the lines of the run it resumes, so that the file of an interrupted run equals the
    unbroken one's.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self.path = path
        remove_leftovers(path.parent)
        if path.exists():
            self._cut(position)
        self._handle = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed by `close`)

    def _cut(self, position: int) -> None:
        """Drop what lies after `position`, and the validation at it, which is about to be repeated."""
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            record = whole_record(line)
            if record is None:
                break  # torn by a kill
            if record["iter"] < position or (record["iter"] == position and record.get("kind") == "train"):
                kept.append(line)
        text = "".join(f"{line}\n" for line in kept).encode()
        write_whole(self.path, lambda handle: handle.write(text))  # a kill here must not cost the lines kept

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

    Raises:
        UserError: one is asked for but not installed.
    """

    def __init__(self, opt: Mapping[str, Any], folder: Path, position: int = 0) -> None:
        options = opt["logger"]
        self._writer: Any = None
        wandb = options.get("wandb") or {}
        if wandb.get("project"):
            self._start_wandb(opt, wandb)
        if options.get("use_tb_logger") or wandb.get("project"):
            self._writer = _tensorboard()(log_dir=str(folder), purge_step=position + 1 if position else None)

    @staticmethod
    def check(opt: Mapping[str, Any]) -> None:
        """Refuse what is not installed, before anything is created."""
        wandb = (opt["logger"].get("wandb") or {}).get("project")
        if opt["logger"].get("use_tb_logger") or wandb:
            _tensorboard()
        if wandb:
            _wandb()

    @staticmethod
    def _start_wandb(opt: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        known = {"id": options["resume_id"], "resume": "allow"} if options.get("resume_id") else {}
        _wandb().init(name=opt["name"], project=options["project"], config=dict(opt), sync_tensorboard=True, **known)

    def add(self, prefix: str, values: Mapping[str, float], iteration: int) -> None:
        """Record scalars under `prefix/name`; where they cannot be written, say so once and go on without."""
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                self._writer.add_scalar(f"{prefix}/{name}", value, iteration)
        except OSError as error:
            get_logger().warning(f"TensorBoard's log cannot be written ({why_not_written(error)}): it ends here")
            self._writer = None

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()


def _tensorboard() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("logger.use_tb_logger: TensorBoard is not installed (pip install tensorboard)") from None
    return SummaryWriter


def _wandb() -> Any:
    try:
        import wandb
    except ImportError:
        raise UserError("logger.wandb: Weights & Biases is not installed (pip install wandb)") from None
    return wandb
