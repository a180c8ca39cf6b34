"""The scripts of datasets_prep, as a person runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kdsr_arch.data.sources import LmdbSource

SCRIPTS = Path(__file__).resolve().parents[2] / "datasets_prep"


def run(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, env=environment)


def test_clips_and_their_lr(clip_root, tmp_path):
    done = run("prepare_clips.py", clip_root, "lq.lmdb", "--lr", 4, "BI", "--clips", "001", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert LmdbSource(tmp_path / "lq.lmdb").size("001/00000000") == (12, 16)
    again = run("prepare_clips.py", clip_root, "lq.lmdb", cwd=tmp_path)
    assert again.returncode == 2 and again.stderr.startswith("error: lq.lmdb: exists already")
    assert "Traceback" not in again.stderr
    absent = run("prepare_clips.py", "nowhere", "b.lmdb", "--lr", "x", "BI", cwd=tmp_path)
    assert absent.returncode == 2 and absent.stderr.startswith("error: --lr x BI: the scale must be")


def test_every_script_explains_itself(tmp_path):
    scripts = sorted(SCRIPTS.glob("prepare_*.py"))
    assert len(scripts) == 6
    for script in scripts:
        done = run(script.name, "--help", cwd=tmp_path)
        assert done.returncode == 0 and f"datasets_prep/{script.name}" in done.stdout, done.stderr
