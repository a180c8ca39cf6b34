"""The demo's trainings stop with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdsr_arch.demo import students
from kdsr_arch.parallel import subcommands
from tests.helpers.messages import refuses

_WAITS = """
import pathlib, signal, sys, time
def leave(*_):
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
pathlib.Path(sys.argv[1] + "_ready").touch()
time.sleep(float(sys.argv[2]))
sys.exit("why it failed")
"""


def start_group(monkeypatch: pytest.MonkeyPatch, folder: Path, seconds: dict[str, float]) -> list[students.Training]:
    """Trainings that sleep in place of training, save at SIGTERM and fail at their end."""

    def start(command: list[str], threads: int, root: Path | None, output: object) -> subprocess.Popen:
        label = Path(command[2]).stem
        process = subprocess.Popen(
            [sys.executable, "-c", _WAITS, str(folder / label), str(seconds[label])],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while not (folder / f"{label}_ready").exists():
            assert process.poll() is None
        return process

    monkeypatch.setattr(subcommands, "start", start)
    monkeypatch.setattr(students, "available_cores", lambda: len(seconds))
    opt = SimpleNamespace(folder=folder / "experiment")
    return [students.Training(label, folder / f"{label}.yml", opt, 10) for label in seconds]


def test_an_interrupt_lets_both_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = start_group(monkeypatch, tmp_path, {"a": 600, "b": 600})

    def interrupt(*_: object, **__: object) -> None:
        while not all((tmp_path / f"{label}_ready").exists() for label in "ab"):
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(students, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        students.train_all(group, tmp_path)
    assert [(tmp_path / label).read_text() for label in "ab"] == ["saved", "saved"]


def test_a_failure_lets_the_other_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = start_group(monkeypatch, tmp_path, {"a": 600, "b": 0.5})
    with refuses("'b'", "b.log", "why it failed"):
        students.train_all(group, tmp_path)
    assert (tmp_path / "a").read_text() == "saved" and not (tmp_path / "b").exists()
