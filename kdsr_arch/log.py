"""What a run tells its user: messages on the console and in a text log, and progress bars."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kdsr_arch.errors import ProgramFault, as_user_error, printable
from kdsr_arch.io import why_not_written
from kdsr_arch.parallel import distributed

LOG_BYTES = 16 * 2**20
LOG_PARTS = 3
"""A text log of more than LOG_BYTES goes on in a fresh file; so many older parts (.1, .2, .3) stay."""
_FORMAT = logging.Formatter("%(asctime)s %(levelname)s: %(message)s")

# tqdm's own lock is shared with forked processes: one that is killed while it holds the lock would stop all the others.
tqdm.set_lock(threading.RLock())


class _Console(logging.Handler):
    """Prints above a progress bar, if there is one; records marked `quiet` are for the file only."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line above the progress bars, unless the record is for the log file alone."""
        if getattr(record, "quiet", False):
            return
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        try:
            tqdm.write(prefix + printable(record.getMessage()), file=sys.stderr)
            sys.stderr.flush()
        except OSError:  # whoever was listening is gone (a closed pipe or terminal); the log file goes on
            return


class _File(logging.handlers.RotatingFileHandler):
    """The text log: bounded, and never a reason to stop; where it cannot be written the console is told once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=LOG_PARTS, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(_FORMAT)
        self._failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name that logging calls)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError) or self._failed:
            return None if self._failed else super().handleError(record)
        self._failed = True
        with suppress(OSError):
            tqdm.write(f"warning: {self.baseFilename}: cannot be written ({why_not_written(error)})", file=sys.stderr)


def get_logger() -> logging.Logger:
    """Return the logger of this project."""
    return logging.getLogger("kdsr")


class TextLog:
    """The project's and BasicSR's messages, on the console and, once `open` was called, in a file.

    Only the main process speaks; the others report errors.

    Attributes:
        path: the file, None until it is open.
    """

    def __init__(self) -> None:
        # keeps what is said before the log file can be opened
        self._early = logging.handlers.MemoryHandler(sys.maxsize, flushLevel=sys.maxsize)
        self._handlers: list[logging.Handler] = [_Console(), self._early]
        self.path: Path | None = None

    def __enter__(self) -> TextLog:
        from basicsr.utils.logger import initialized_logger

        initialized_logger["basicsr"] = True  # else BasicSR would add a handler of its own at its first message
        self._before = [(logger, logger.level, logger.propagate) for logger in self._loggers()]
        for logger in self._loggers():
            logger.setLevel(logging.INFO if distributed.is_main() else logging.ERROR)
            logger.propagate = False
            for handler in self._handlers:
                logger.addHandler(handler)
        logging.getLogger("basicsr").setLevel(logging.WARNING)  # its information repeats ours
        return self

    def __exit__(self, *_: object) -> None:
        for logger, level, propagate in self._before:  # a program that trains in passing finds its logging as it was
            logger.setLevel(level)
            logger.propagate = propagate
            for handler in self._handlers:
                logger.removeHandler(handler)
        for handler in self._handlers:
            handler.close()

    @staticmethod
    def _loggers() -> list[logging.Logger]:
        return [get_logger(), logging.getLogger("kdsr_arch"), logging.getLogger("basicsr")]

    def open(self, path: Path) -> None:
        """Write to `path` from now on, beginning with the messages so far."""
        handler = _File(path)
        self._early.setTarget(handler)
        self._early.close()
        for logger in self._loggers():
            logger.removeHandler(self._early)
            logger.addHandler(handler)
        self._handlers = [handler, *[h for h in self._handlers if h is not self._early]]
        self.path = path


@contextmanager
def telling(log: TextLog | None = None) -> Iterator[None]:
    """Raise what ends the block as a sentence for the user; write it into the log, with the traceback if it has one.

    The traceback of a `ProgramFault` goes into a file of its own where no log file was opened.
    """
    try:
        yield
    except Exception as error:
        fault = as_user_error(error)
        trace, path = getattr(fault, "trace", ""), log.path if log is not None else None
        if log is not None:
            get_logger().error(f"{fault}\n{trace}".rstrip(), extra={"quiet": True})
        if isinstance(fault, ProgramFault):
            if path is None and distributed.is_main():
                handle, name = tempfile.mkstemp(".txt", "kdsr_traceback_")
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(trace)
                path = Path(name)
            fault.args = (f"{fault}. The traceback is in {path or 'the log file of this run'}",)
        if fault is error:
            raise
        raise fault from error


class _Lines:
    """Standard error where it is no terminal: each state of a bar becomes a line."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(f"{text.strip()}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(what: str, total: float | None = None, unit: str = "frames", done: int = 0, **more: Any) -> tqdm:
    """Make a bar on standard error: count, rate and time left, in place on a terminal, elsewhere a line now and then.

    Args:
        what: stands before the bar.
        total: things in all; None when that is not known beforehand.
        unit: what the things are, in the plural.
        done: things done in an earlier run, which the rate leaves out.
        more: further keywords of tqdm.
    """
    tqdm.monitor_interval = 0  # no thread beside: processes are forked while a bar is shown
    terminal = sys.stderr.isatty()
    return tqdm(
        desc=what,
        total=total,
        unit=f" {unit}",
        initial=done,
        file=sys.stderr if terminal else _Lines(),
        mininterval=0.2 if terminal else 10.0,
        miniters=1,
        dynamic_ncols=True,
        **more,
    )
