"""Progress bars where standard error is no terminal."""

from __future__ import annotations

import pytest

from kdsr_arch.log import progress_bar


def test_a_bar_is_a_few_whole_lines_where_no_one_watches(capfd: pytest.CaptureFixture[str]) -> None:
    bar = progress_bar("a.lmdb", 1000, done=400)
    for _ in range(600):
        bar.update()
    bar.close()
    text = capfd.readouterr().err
    assert "\r" not in text and text.endswith("\n")
    first, last = text.splitlines()  # what lies between takes less than the ten seconds from line to line
    assert first.startswith("a.lmdb:  40%") and last.startswith("a.lmdb: 100%") and "1000/1000" in last


def test_a_bar_without_a_total_counts(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("film", unit="images") as bar:
        bar.update(7)
    assert "film: 7 images" in capfd.readouterr().err.splitlines()[-1]
