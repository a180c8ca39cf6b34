"""The scripts of datasets_prep, as a person runs them."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys

import pytest

from kdsr_arch.data.sources import LmdbSource
from tests.helpers import ROOT

SCRIPTS = ROOT / "datasets_prep"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """``run(name, *arguments)`` in this process, from another folder; returns (exit code, stdout, stderr)."""

    def call(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(SCRIPTS))
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        except SystemExit as done:
            code = int(done.code or 0)
        return (code, *capsys.readouterr())

    return call


def test_clips_and_their_lr(run, clip_root, tmp_path):
    words = ("--lr", 4, "BI", "--lr-only", "--clips", "001", "--quiet")
    code, out, _ = run("prepare_clips.py", clip_root, "lq.lmdb", *words)
    assert code == 0 and "frames: 5 in 1 clips (5 of 16x12)" in out
    assert LmdbSource(tmp_path / "lq.lmdb").size("001/00000000") == (12, 16)
    code, out, err = run("prepare_clips.py", clip_root, "lq.lmdb")
    assert code == 2 and out == "" and err.startswith("error: lq.lmdb: exists already")


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("prepare_*.py")))
def test_every_script_knows_its_kind(run, script):
    code, _, err = run(script, "nowhere", "out.lmdb")
    assert code == 2 and "nowhere" in err


@pytest.mark.slow
def test_a_script_runs_outside_its_folder(tmp_path):
    command = [sys.executable, str(SCRIPTS / "prepare_videos.py"), "nowhere", "a.lmdb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ})
    assert (done.returncode, done.stderr) == (2, "error: nowhere: the folder of clips does not exist\n")
    assert list(tmp_path.iterdir()) == []
