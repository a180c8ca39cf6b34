"""Judge what one input did: accepted, refused in a sentence, or a finding.

A finding is anything but a `UserError`: another exception, more than ten seconds of the processor, more memory than
the target allows, a file opened for writing or changed outside the scratch folder, a process or a connection started,
or code of the input that ran. The process above (`tests.fuzz.campaign`) sees what kills the process: a crash or a hang
of native code.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdsr_arch.errors import UserError
from tests.fuzz.target import MIB, Target
from tests.helpers import ROOT

HANG_SECONDS = 10.0
CANARY = "KDSR_FUZZ_CANARY"  # payloads set this environment variable when they run

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGING = {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod",
             "shutil.rmtree", "shutil.move", "shutil.copyfile"}  # fmt: skip
_STARTING = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "pty.spawn"}
_PROJECT = str(ROOT / "kdsr_arch")


class Finding(Exception):
    """Raised for what no input may do.

    Attributes:
        kind: 'exception', 'slow', 'memory', 'write', 'process', 'code', 'message'; 'crash' and 'hang' come from above.
        where: the place in the project, or what was written or started.
    """

    def __init__(self, kind: str, where: str, detail: str = "") -> None:
        self.kind, self.where, self.detail = kind, where, detail
        super().__init__(f"{kind}: {where}\n{detail}")

    @property
    def signature(self) -> str:
        """Return a text that is equal for equal findings."""
        return f"{self.kind}: {self.where}"


class Guard:
    """Watches this process while inputs are read. One per process: an audit hook cannot be taken away again.

    Attributes:
        scratch: the folder in which may be written.
    """

    _hooked: Guard | None = None

    def __init__(self, scratch: Path) -> None:
        self.scratch = os.path.realpath(scratch)
        self._armed = False
        self._seen: list[Finding] = []
        if Guard._hooked is None:
            sys.addaudithook(_audit)
        Guard._hooked = self

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        """Note an event of Python's audit hooks."""
        if not self._armed:
            return
        if event == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & _WRITING and isinstance(path, str | bytes):
                self._check_place(path)
        elif event in _CHANGING:
            for path in args[:2] if event in ("os.rename", "shutil.move") else args[:1]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._check_place(path)
        elif event in _STARTING:
            self._seen.append(Finding("process", f"{event} {str(args)[:200]}"))

    def _check_place(self, path: Any) -> None:
        place = os.path.realpath(os.fsdecode(path))
        inside = place == self.scratch or place.startswith(self.scratch + os.sep)
        if not inside and not place.startswith(("/dev/null", "/proc/")) and not place.endswith(".pyc"):
            self._seen.append(Finding("write", place))

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self._seen.clear()
        os.environ.pop(CANARY, None)
        self._armed = True
        try:
            yield
        finally:
            self._armed = False

    def judge(self, target: Target, data: bytes) -> str:
        """Let the target read an input and judge it.

        Returns:
            'accepted' or 'refused'.

        Raises:
            Finding: it did what no input should.
        """
        before, began = _peak_memory(), time.process_time()
        outcome = "accepted"
        try:
            with self._watching(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target.run(data, Path(self.scratch))
        except UserError as error:
            outcome = "refused"
            _check_message(error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise Finding("exception", _place_of(error), traceback.format_exc(limit=-12)) from None
        self._check_deeds(target, before, time.process_time() - began)
        return outcome

    def _check_deeds(self, target: Target, before: int, seconds: float) -> None:
        if CANARY in os.environ:
            raise Finding("code", "a payload ran")
        if self._seen:
            raise self._seen[0]
        grown = _peak_memory() - before
        if grown > target.memory:
            raise Finding("memory", target.name, f"{grown / MIB:.0f} MiB for one input")
        if seconds > HANG_SECONDS:
            raise Finding("slow", target.name, f"{seconds:.1f} s")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if Guard._hooked is not None:
        Guard._hooked.see(event, args)


def _check_message(error: UserError) -> None:
    """Check that a refusal has a text, of a length that a terminal can show."""
    text = str(error)
    if not text.strip() or len(text) > 200_000:
        raise Finding("message", _place_of(error), f"a message of {len(text)} characters")


def _place_of(error: BaseException) -> str:
    """Return the type and the innermost function of the project that an exception went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_PROJECT)]
    at = (ours or frames)[-1] if frames else None
    place = f"{Path(at.filename).name}:{at.name}" if at else "?"
    return f"{type(error).__name__} in {place}"


def _peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
