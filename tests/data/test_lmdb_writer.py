"""A store is written whole or not at all."""

from __future__ import annotations

import errno

import lmdb
import numpy as np
import pytest

from kdsr_arch.data import lmdb_writer
from kdsr_arch.data.lmdb_writer import LmdbWriter
from kdsr_arch.data.sources import LmdbSource
from kdsr_arch.errors import UserError


def test_the_map_grows_by_itself(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_writer, "_FIRST_MAP", 64 << 10)
    monkeypatch.setattr(lmdb_writer, "_COMMIT_BYTES", 50_000)
    with LmdbWriter(tmp_path / "a.lmdb") as writer:
        for index, frame in enumerate(frames):
            writer.put(f"{index:03d}", frame)
    source = LmdbSource(tmp_path / "a.lmdb")
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(source.get(f"{index:03d}"), frame)


def test_an_error_leaves_nothing_behind(frames, tmp_path):
    with pytest.raises(KeyboardInterrupt), LmdbWriter(tmp_path / "a.lmdb") as writer:
        writer.put("000", frames[0])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="nothing to write"), LmdbWriter(tmp_path / "a.lmdb"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_touched(tmp_path):
    (tmp_path / "a.lmdb").mkdir()
    with pytest.raises(UserError, match="a.lmdb: exists already"):
        LmdbWriter(tmp_path / "a.lmdb")
    with pytest.raises(UserError, match="must end in .lmdb"):
        LmdbWriter(tmp_path / "a")


def test_a_key_that_comes_twice_names_its_file(frames, tmp_path):
    with pytest.raises(UserError, match="x/a.jpg: the key 'a' comes twice"), LmdbWriter(tmp_path / "a.lmdb") as writer:
        writer.put("a", frames[0])
        writer.put("a", frames[1], "x/a.jpg")


@pytest.mark.parametrize("error", [lmdb.DiskError("No space left on device"), OSError(errno.ENOSPC, "No space left")])
def test_a_full_disk_is_said_and_cleaned_up(frames, tmp_path, monkeypatch, error):
    class Full:
        def __getattr__(self, name):
            raise error

        def close(self):
            pass

    message = "a.lmdb: cannot be written .*No space left"
    with pytest.raises(UserError, match=message), LmdbWriter(tmp_path / "a.lmdb") as writer:
        writer.put("a", frames[0])
        writer._environment.close()
        writer._environment = Full()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot be written"), LmdbWriter(tmp_path / "file" / "a.lmdb"):
        pass
