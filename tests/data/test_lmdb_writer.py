"""A store is written whole, or can be gone on with."""

from __future__ import annotations

import errno
import os
import resource
import signal

import lmdb
import pytest

from kdsr_arch.data.sources import LmdbSource
from kdsr_arch.data.store import lmdb_store
from kdsr_arch.data.store.lmdb_store import LmdbWriter, check_lmdb, reading
from kdsr_arch.errors import UserError
from tests.helpers.messages import refuses

META = {"meta_info.txt": "a.png (8,8,3) 1\n"}


def content(path) -> dict[bytes, bytes]:
    with reading(path) as transaction:
        return {bytes(key): bytes(value) for key, value in transaction.cursor()}


def test_the_map_grows_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_store, "_FIRST_MAP", 64 << 10)
    values = {b"%03d" % i: bytes([i]) * 50_000 for i in range(30)}
    with LmdbWriter(tmp_path / "a.lmdb", {}) as writer:
        for index, (key, value) in enumerate(values.items()):
            writer.put(key, value)
            if index % 7 == 6:
                writer.state = {"done": index}
                writer.commit()
        writer.finish(META)
    check_lmdb(tmp_path / "a.lmdb")
    assert content(tmp_path / "a.lmdb") == values
    assert sorted(p.name for p in (tmp_path / "a.lmdb").iterdir()) == [
        "conversion.json", "data.mdb", "lock.mdb", "meta_info.txt"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "stop, kept", [(KeyboardInterrupt, b"0"), (UserError("bad frame"), b"0"), (RuntimeError, None)]
)
def test_what_was_committed_is_gone_on_with(tmp_path, stop, kept):
    """An interrupt and a fault that is told keep what is not committed yet, too."""
    with (
        pytest.raises(stop if isinstance(stop, type) else type(stop)),
        LmdbWriter(tmp_path / "a.lmdb", {"codec": "x"}) as writer,
    ):
        writer.put(b"a", b"1")
        writer.state = {"done": 1}
        writer.commit()
        writer.put(b"b", b"0")
        raise stop
    assert [path.name for path in tmp_path.iterdir()] == [".a.lmdb.partial"]
    with refuses(tmp_path / "a.lmdb", "not finished"):
        LmdbSource(tmp_path / "a.lmdb")
    with (
        refuses(".a.lmdb.partial", "codec", "'x'", "'y'"),
        LmdbWriter(tmp_path / "a.lmdb", {"codec": "y"}),
    ):
        pass
    with LmdbWriter(tmp_path / "a.lmdb", {"codec": "x"}) as writer:
        assert writer.state == {"done": 1}
        assert [bytes(v) if v else v for v in writer.stored([b"a", b"b"])] == [b"1", kept]
        writer.put(b"b", b"2")
        writer.finish(META)
    assert content(tmp_path / "a.lmdb") == {b"a": b"1", b"b": b"2"}


def test_nothing_committed_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), LmdbWriter(tmp_path / "deep" / "a.lmdb", {}) as writer:
        writer.put(b"a", b"1")
        raise KeyboardInterrupt
    assert list((tmp_path / "deep").iterdir()) == []


def test_two_writers_do_not_meet(tmp_path):
    with LmdbWriter(tmp_path / "a.lmdb", {}) as writer:
        child = os.fork()
        if child == 0:
            refused = 0
            try:
                with LmdbWriter(tmp_path / "a.lmdb", {}):
                    pass
            except UserError as error:
                refused = int("another process is writing it" in str(error))
            finally:
                os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        writer.put(b"a", b"1")
        writer.finish(META)
    assert content(tmp_path / "a.lmdb") == {b"a": b"1"}


def test_what_exists_is_not_touched(tmp_path):
    (tmp_path / "a.lmdb").mkdir()
    (tmp_path / "b.lmdb").symlink_to(tmp_path / "nowhere")
    for name in ("a", "b"):
        with refuses(tmp_path / f"{name}.lmdb", "exists"):
            LmdbWriter(tmp_path / f"{name}.lmdb", {})
    with refuses(tmp_path / "a", ".lmdb"):
        LmdbWriter(tmp_path / "a", {})


def test_a_disk_that_fills_up(tmp_path):
    """The file may not grow beyond 1 MiB, as if the disk were full; then it may."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            refuses(tmp_path / "a.lmdb", "disk", ".a.lmdb.partial"),
            LmdbWriter(tmp_path / "a.lmdb", {}) as writer,
        ):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
            for index in range(40):
                writer.put(b"%d" % index, bytes([index]) * 100_000)
                writer.state = {"done": index + 1}
                writer.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with LmdbWriter(tmp_path / "a.lmdb", {}) as writer:
        done = writer.state["done"]
        assert 5 <= done < 11
        assert [bytes(v) for v in writer.stored(b"%d" % i for i in range(done))] == [
            bytes([i]) * 100_000 for i in range(done)
        ]
        writer.finish(META)


@pytest.mark.parametrize("error", [lmdb.DiskError("No space left on device"), OSError(errno.ENOSPC, "No space left")])
def test_full_disks_of_either_kind_are_said(tmp_path, error):
    class Full:
        def __getattr__(self, name):
            raise error

        def close(self):
            pass

    with (
        refuses(tmp_path / "a.lmdb", "No space left", ".a.lmdb.partial"),
        LmdbWriter(tmp_path / "a.lmdb", {}) as writer,
    ):
        writer.put(b"a", b"1")
        writer._environment.close()
        writer._environment = Full()
        writer.commit()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file", "/proc"):
        with refuses(f"{place}/a.lmdb"), LmdbWriter(f"{place}/a.lmdb", {}):
            pass
