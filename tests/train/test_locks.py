"""One process per experiment folder, and no lock that outlives its process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdsr_arch.errors import UserError
from kdsr_arch.locks import archive
from kdsr_arch.train.run_files import folder_lock
from tests.helpers.messages import refuses

HOLDER = """
import sys, time
from pathlib import Path
from kdsr_arch.train.run_files import folder_lock
lock = folder_lock(Path(sys.argv[1]))
lock.__enter__()
print("held", flush=True)
if len(sys.argv) > 2:  # a child that inherits everything, as a data-loading worker does
    import os
    if os.fork() == 0:
        os.close(1)
        time.sleep(60)
time.sleep(60)
"""


def hold(folder: Path, *extra: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), *extra], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_second_process_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    try:
        with refuses(tmp_path / "run", f"process {process.pid}"), folder_lock(tmp_path / "run"):
            pass
    finally:
        process.kill()
        process.wait()


def test_killed_process_leaves_no_lock_even_with_a_living_child(tmp_path: Path) -> None:
    process = hold(tmp_path / "run", "fork")
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with folder_lock(tmp_path / "run"):
        pass
    for pid in children.stdout.split():
        subprocess.run(["kill", "-9", pid], check=False)


def test_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "a" / "run"):
        pass
    hold(tmp_path / "a" / "run").kill()


def test_lock_survives_archiving_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    process = hold(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "run_archived")
    try:
        with pytest.raises(UserError), folder_lock(tmp_path / "run"):
            pass
    finally:
        process.kill()
        process.wait()


def test_an_earlier_run_is_moved_aside_on_its_own_disk(tmp_path: Path) -> None:
    """A folder that is a link to another disk stays one; an empty folder is used as it is."""
    (tmp_path / "disk" / "run").mkdir(parents=True)
    folder = tmp_path / "run"
    folder.symlink_to(tmp_path / "disk" / "run")
    archive(folder)
    assert folder.is_symlink() and [path.name for path in tmp_path.glob("disk/*")] == ["run"]
    (folder / "mark").touch()
    archive(folder, "NOW")
    (folder / "new").touch()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("disk/*/*")) == [
        "disk/run/new",
        "disk/run_archived_NOW/mark",
    ]
