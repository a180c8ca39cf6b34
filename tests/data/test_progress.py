"""What is told of a long conversion."""

from __future__ import annotations

import io

from kdsr_arch.data.progress import Progress


def test_count_rate_and_time_left():
    progress = Progress("a.lmdb", total=24_000, done=4_000, stream=io.StringIO())
    progress.add(2_000)
    assert progress.text(100.0) == "a.lmdb: 6,000 of 24,000 frames, 20.0 a second, 15 min 00 s left"
    assert Progress("a", 10, 2, io.StringIO()).text(5.0) == "a: 2 of 10 frames, 0.0 a second"
    unknown = Progress("film", stream=io.StringIO())
    unknown.add(30)
    assert unknown.text(2.0) == "film: 30 frames, 15.0 a second"
    long = Progress("a", 100_000, stream=io.StringIO())
    long.add(10)
    assert long.text(1.0).endswith("2 h 46 min left")


def test_lines_off_a_terminal_are_few_and_the_last_one_tells_the_whole():
    stream = io.StringIO()
    progress = Progress("a", 50, stream=stream)
    for _ in range(50):
        progress.add()
    progress.close()
    assert stream.getvalue().count("\n") == 1 and stream.getvalue().startswith("a: 50 frames in 0 s, ")
