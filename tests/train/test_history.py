"""The history file: what a resumed run keeps of it, and that nothing which befalls the cutting loses what is kept."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

from kdsr_arch.errors import UserError
from kdsr_arch.train.history import History
from tests.helpers.messages import missing


def fill(path: Path, count: int = 9) -> list[str]:
    history = History(path)
    for iteration in range(1, count + 1):
        history.add("train", iteration, loss=1 / iteration)
        if iteration % 3 == 0:
            history.add("val", iteration, psnr=20.0 + iteration)
    history.close()
    return path.read_text().splitlines()


def test_a_resumed_run_keeps_what_came_before_its_state(tmp_path) -> None:
    path = tmp_path / "history.jsonl"
    fill(path)
    with path.open("a") as handle:
        handle.write('{"kind": "train", "iter": 1')  # torn
    History(path, 6).close()
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["kind"], r["iter"]) for r in kept] == [
        *(("train", 1), ("train", 2), ("train", 3), ("val", 3), ("train", 4), ("train", 5), ("train", 6)),
    ]


def test_a_history_that_ends_before_the_state_is_told(tmp_path, caplog) -> None:
    path = tmp_path / "history.jsonl"
    for lines, position, period, said in (
        (9, 9, 1, ""),
        (9, 11, 3, ""),
        (9, 12, 3, "iteration 9"),
        (0, 3, 3, "holds nothing"),
    ):
        path.unlink(missing_ok=True)
        fill(path, lines)
        caplog.clear()
        History(path, position, period).close()
        assert bool(caplog.text) == bool(said) and not missing(caplog.text, *filter(None, [said]))


def test_a_damaged_line_costs_no_other(tmp_path) -> None:
    path = tmp_path / "history.jsonl"
    lines = fill(path)
    path.write_text("\n".join(["\0" * 40, *lines[:3], '{"kind": "tr', *lines[3:]]) + "\n")
    History(path, 10).close()
    assert path.read_text().splitlines() == lines


def test_a_disk_full_while_cutting_leaves_the_whole_history(tmp_path) -> None:
    """A limit on the size of files stands for the full disk, or for a kill between emptying a file and filling it."""
    path = tmp_path / "history.jsonl"
    lines = fill(path)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
        try:
            History(path, 6)
        except UserError:
            os._exit(2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert path.read_text().splitlines() == lines
    assert os.listdir(tmp_path) == ["history.jsonl"]


def test_what_a_killed_cutting_left_is_removed(tmp_path) -> None:
    (tmp_path / ".history.jsonl.77.tmp").write_text("part")
    History(tmp_path / "history.jsonl").close()
    assert os.listdir(tmp_path) == ["history.jsonl"]
