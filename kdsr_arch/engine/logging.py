"""Where a run's words and numbers go: console, text log, `history.jsonl`, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from kdsr_arch import distributed
from kdsr_arch.errors import UserError
from kdsr_arch.files import remove_leftovers, write_whole

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
        handler = logging.FileHandler(path)
        handler.setFormatter(_FORMAT)
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
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                break  # torn by a kill
            if record["iter"] < position or (record["iter"] == position and record["kind"] == "train"):
                kept.append(line)
        text = "".join(f"{line}\n" for line in kept).encode()
        write_whole(self.path, lambda handle: handle.write(text))  # a kill here must not cost the lines kept

    def add(self, kind: str, iteration: int, **content: Any) -> None:
        """Append one record; `kind` is 'train' or 'val'."""
        self._handle.write(json.dumps({"kind": kind, "iter": iteration, **content}) + "\n")
        self._handle.flush()

    def close(self) -> None:
        """Close the file."""
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
        """Record scalars under `prefix/name`."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{prefix}/{name}", value, iteration)

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
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
