"""The demo's trainings stop with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdsr_arch import demo
from kdsr_arch.errors import UserError

_WAITS = """
import pathlib, signal, sys, time
def leave(*_):
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
pathlib.Path(sys.argv[1] + "_ready").touch()
time.sleep(float(sys.argv[2]))
sys.exit(2)
"""


def start_group(monkeypatch: pytest.MonkeyPatch, folder: Path, seconds: dict[str, float]) -> list[demo.Training]:
    """Trainings that sleep in place of training, save at SIGTERM and fail at their end."""

    def start(training: demo.Training, threads: int) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", _WAITS, str(folder / training.label), str(seconds[training.label])],
            start_new_session=True,
        )
        while not (folder / f"{training.label}_ready").exists():
            assert process.poll() is None
        return process

    monkeypatch.setattr(demo, "_start", start)
    monkeypatch.setattr(demo.Training, "position", lambda self: 0)
    monkeypatch.setattr(demo.Training, "total", 10)
    for label in seconds:
        (folder / f"{label}.log").write_text("why it failed")
    return [demo.Training(label, folder / "o.yml", {}, folder / f"{label}.log", ()) for label in seconds]


def test_an_interrupt_lets_both_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = start_group(monkeypatch, tmp_path, {"a": 600, "b": 600})

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo._train_group(group, 1)
    assert [(tmp_path / label).read_text() for label in "ab"] == ["saved", "saved"]


def test_a_failure_lets_the_other_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = start_group(monkeypatch, tmp_path, {"a": 600, "b": 0})
    with pytest.raises(UserError, match="'b' failed"):
        demo._train_group(group, 1)
    assert (tmp_path / "a").read_text() == "saved" and not (tmp_path / "b").exists()
