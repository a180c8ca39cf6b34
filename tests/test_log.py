"""Messages and progress bars go on whatever happens to the processes beside this one."""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import threading
from pathlib import Path

import pytest
from tqdm import tqdm

from kdsr_arch.errors import UserError
from kdsr_arch.log import TextLog, progress_bar, telling
from tests.helpers.messages import refuses


def test_a_forked_process_killed_in_the_middle_of_a_message_stops_nobody() -> None:
    lock = tqdm.get_lock()
    child = os.fork()
    if child == 0:
        lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    went_on = threading.Thread(target=lambda: progress_bar("test", 3).close(), daemon=True)
    went_on.start()
    went_on.join(20)
    assert not went_on.is_alive()


def _fail() -> None:
    raise ZeroDivisionError("a fault of the class")


def test_what_nobody_foresaw_is_a_sentence_with_its_traceback_in_the_log(tmp_path: Path) -> None:
    with TextLog() as log:
        log.open(tmp_path / "train.log")
        with refuses("ZeroDivisionError: a fault of the class", "test_log.py", tmp_path / "train.log"), telling(log):
            _fail()
    assert "in _fail" in (tmp_path / "train.log").read_text()


def test_before_there_is_a_log_the_traceback_has_a_file_of_its_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError) as caught, telling():
        _fail()
    (file,) = re.findall(r"\S+\.txt", str(caught.value))
    assert Path(file).parent == tmp_path and "in _fail" in Path(file).read_text()


def test_what_the_user_can_mend_has_no_traceback(tmp_path: Path) -> None:
    with TextLog() as log:
        log.open(tmp_path / "train.log")
        with refuses("no space left", without=["OSError"]), telling(log):
            raise OSError(28, "No space left on device")
    assert "Traceback" not in (tmp_path / "train.log").read_text()


def test_logging_is_afterwards_as_it_was():
    loggers = [logging.getLogger(name) for name in ("kdsr", "kdsr_arch", "basicsr")]

    def state():
        return [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]

    before = state()
    with TextLog():
        assert not any(logger.propagate for logger in loggers)
    assert state() == before
