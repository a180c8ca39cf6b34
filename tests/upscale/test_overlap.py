"""Reading ahead and writing behind: order, errors of either side, and no thread left over."""

import threading
import time

import pytest

from kdsr_arch.upscale.video import WriteBehind, read_ahead


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_order_is_kept():
    got = []
    with read_ahead(range(50), 3) as items, WriteBehind(got.append, 3) as behind:
        for item in items:
            behind.put(item)
    assert got == list(range(50))


def test_stages_overlap():
    def slow(_=None):
        time.sleep(0.02)

    def source():
        for i in range(12):
            slow()
            yield i

    began = time.perf_counter()
    with read_ahead(source()) as items, WriteBehind(slow) as behind:
        for item in items:
            slow()
            behind.put(item)
    assert time.perf_counter() - began < 0.8 * 3 * 12 * 0.02


def test_an_error_of_the_source_comes_after_its_items():
    def source():
        yield 1
        raise ValueError("broken")

    got = []
    with pytest.raises(ValueError, match="broken"), read_ahead(source()) as items:
        got.extend(items)
    assert got == [1]


def test_an_error_of_the_writer_stops_the_work():
    def refuse(item):
        raise OSError("full")

    with pytest.raises(OSError, match="full"), WriteBehind(refuse, 2) as behind:
        for item in range(1000):
            behind.put(item)


def test_an_error_between_them_ends_both():
    got = []
    with pytest.raises(KeyboardInterrupt), read_ahead(iter(int, 1)) as items, WriteBehind(got.append) as behind:
        for number, item in enumerate(items):
            behind.put(item)
            if number == 5:
                raise KeyboardInterrupt


def test_nothing_is_written_after_an_error():
    got = []

    def write(item):
        if item == 3:
            raise OSError("full")
        got.append(item)

    with pytest.raises(OSError, match="full"), WriteBehind(write, 8) as behind:
        for item in range(20):
            behind.put(item)
    assert got == [0, 1, 2]
