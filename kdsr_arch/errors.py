"""Sentences for the user: errors without a traceback (the command line exits with code 2), and warnings given once."""

from __future__ import annotations

import difflib
import errno
import logging
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class UserError(Exception):
    """Something the user can mend. The message names the file, key or shape and says what to do.

    Attributes:
        reported: True where another process of the same job has told the user already; False where this one shall; None
            where nobody has looked.
    """

    reported: bool | None = None


class Lost(UserError):
    """A process that the work needs has ended before its time; a restart may go on from where it was."""


class Shortage(UserError):
    """The machine lacks something for the moment: no fault of a file, which must not be left out for it."""


class ProgramFault(UserError):
    """An exception that nobody foresaw: a fault of this program, or of a class that the user brought.

    Attributes:
        trace: its traceback, for a log file; the message is for the screen.
    """

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message)
        self.trace = trace

    @classmethod
    def of(cls, error: BaseException, what: str = "") -> ProgramFault:
        """Make one of a caught exception: `what` went wrong, the exception, and the last line outside of torch."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "site-packages/torch/" not in frame.filename] or frames
        place = f", in {Path(own[-1].filename).name}:{own[-1].lineno} ({own[-1].name})" if own else ""
        kind, text = type(error).__name__, first_line(error)
        message = f"{what}{kind if text == kind else f'{kind}: {text}'}{place}"
        return cls(message, "".join(traceback.format_exception(error)))


class OptionErrors(UserError):
    """All the faults of an option file at once.

    Args:
        faults: one sentence per fault, each naming its dotted key.
        source: the option file they were found in.
    """

    def __init__(self, faults: Iterable[str], source: str = "") -> None:
        self.faults = list(faults)
        self.source = source
        head = f"{source}: " if source else ""
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__("\n".join([f"{head}{count} in the options", *(f"  - {fault}" for fault in self.faults)]))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for a misspelt name: ``" (did you mean 'a' or 'b'?)"``, or an empty string when nothing is near."""
    candidates, word = {str(k).lower(): str(k) for k in known}, str(name).lower()
    begun = [k for k in candidates if word and k.startswith(word) and not k[len(word) :][:1].isalnum()]  # 'a' of 'a-b'
    near = [*dict.fromkeys([*begun, *difflib.get_close_matches(word, candidates, n=3, cutoff=0.6)])][:3]
    return " (did you mean " + " or ".join(f"'{candidates[k]}'" for k in near) + "?)" if near else ""


def one_of(owner: str, key: str, value: T, known: Collection[T]) -> T:
    """Return ``value`` if it is one of ``known``, else raise a UserError that names the owner and its option."""
    if value not in known:
        hint = nearest(str(value), map(str, known))
        raise UserError(f"{owner}: {key} {value!r} is none of {', '.join(map(repr, known))}{hint}")
    return value


def as_user_error(error: Exception) -> UserError:
    """Return an exception as a sentence: itself, what the user can mend of it, or a `ProgramFault`."""
    if isinstance(error, UserError):
        return error
    sentence = tell_os_error(error) if isinstance(error, OSError) else None
    return UserError(sentence) if sentence else ProgramFault.of(error)


def tell_os_error(error: OSError) -> str | None:
    """Return a sentence for what a user can mend; None for anything else, which is a fault of the program."""
    place = f" {error.filename}" if error.filename else ""
    if error.errno in FULL:
        place = place or " the output"
        return f"no space left on the disk to write{place}; make room and start again with --auto_resume"
    if error.errno in FORBIDDEN:
        return f"no permission to use{place or ' a file or folder'}; choose another folder or change its permissions"
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class where it has none; parts of a message are joined."""
    parts = error.args if error.args and all(isinstance(part, str) for part in error.args) else (error,)
    return next(iter("".join(map(str, parts)).strip().splitlines()), "") or type(error).__name__


def printable(text: str, kept: str = "\n\t") -> str:
    """Show what steers a terminal, breaks a line or is no character as ``\\x1b``: names of files may hold any of it."""
    shown = (c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


_said: set[str] = set()


def notice(topic: str, message: str) -> None:
    """Log ``message`` as a warning, unless this process said something on ``topic`` before."""
    if topic not in _said:
        _said.add(topic)
        logging.getLogger("kdsr").warning(message)
