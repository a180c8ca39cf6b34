"""Runs a page in headless Chromium, over the pipes of its DevTools protocol: no driver, no port."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdsr_arch.errors import UserError

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PATIENCE = 600  # seconds without a word
_PIPE = 3  # where it reads; it writes to the next one


class Page:
    """A page that is open in the browser.

    Attributes:
        group: of the browser's processes.
    """

    def __init__(self, group: int, sent: int, received: int) -> None:
        self.group, self._sent, self._received, self._rest = group, sent, received, b""
        self._session, self._number = "", 0

    def open(self, path: Path) -> None:
        """Load a file and wait until its scripts have run.

        Raises:
            UserError: the browser does not run.
        """
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self.call("Page.enable")
            self.call("Page.navigate", url=path.resolve().as_uri())
            while self._message().get("method") != "Page.loadEventFired":
                pass
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"Chromium does not open {path.name} ({error}); try: chromium --headless about:blank"
            ) from None

    def evaluate(self, expression: str) -> Any:
        """Return what an expression gives, awaited where it is a promise.

        Raises:
            RuntimeError: it throws.
        """
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            said = done["exceptionDetails"]
            raise RuntimeError(said.get("exception", {}).get("description") or said.get("text"))
        return done["result"].get("value")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol in the page, such as 'Page.captureScreenshot'."""
        self._number += 1
        said = {"id": self._number, "method": method, "params": parameters}
        whole = json.dumps(said | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        while whole:
            whole = whole[os.write(self._sent, whole) :]
        while (answer := self._message()).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(answer["error"].get("message", method))
        result: dict[str, Any] = answer["result"]
        return result

    def _message(self) -> dict[str, Any]:
        parts = [self._rest]
        while b"\0" not in parts[-1]:
            ready = select.select([self._received], [], [], _PATIENCE)[0]
            parts.append(os.read(self._received, 1 << 20) if ready else b"")
            if not parts[-1]:
                raise RuntimeError("the browser ended" if ready else "the browser does not answer")
        whole, _, self._rest = b"".join(parts).partition(b"\0")
        message: dict[str, Any] = json.loads(whole)
        return message


@contextmanager
def chromium(what: str) -> Iterator[Page]:
    """Start the browser, without window, profile or network of its own; it ends with the context.

    Args:
        what: needs it, for messages.

    Raises:
        UserError: there is none, or it does not start.
    """
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if not hasattr(os, "posix_spawn"):
        raise UserError(f"{what} is tried in Chromium before it is written, which works on Linux and macOS alone")
    if program is None:
        raise UserError(f"{what} is tried in Chromium before it is written: apt install chromium, or install Chrome")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [program, "--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage"]
        words += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}", "about:blank"]
        if os.geteuid() == 0:
            words.insert(1, "--no-sandbox")  # which refuses to run as root
        process, sent, received = _start(words)
        page = Page(process, sent, received)
        try:
            yield page
        finally:
            with suppress(RuntimeError, OSError):
                page._session = ""
                page.call("Browser.close")
            for pipe in (sent, received):
                os.close(pipe)
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)  # what may be left of its children
            os.waitpid(process, 0)


def _start(words: list[str]) -> tuple[int, int, int]:
    """Start a process of a group of its own; return it, the pipe that it reads and the one that it writes."""
    import fcntl  # which Windows lacks

    ends = [*os.pipe(), *os.pipe()]
    far = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]  # away from the numbers they get in the child
    for end in ends:
        os.close(end)
    actions = [
        *((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)),
        (os.POSIX_SPAWN_DUP2, far[0], _PIPE),
        (os.POSIX_SPAWN_DUP2, far[3], _PIPE + 1),
    ]
    try:
        process = os.posix_spawn(words[0], words, os.environ, file_actions=actions, setpgroup=0)
    except OSError as error:
        raise UserError(f"{words[0]}: does not start ({error.strerror})") from None
    for end in (far[0], far[3]):
        os.close(end)
    return process, far[1], far[2]
