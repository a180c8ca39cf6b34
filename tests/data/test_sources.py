"""Folders and LMDB give the same frames, and say clearly what is wrong with them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import lmdb
import numpy as np
import pytest

from kdsr_arch.data.augment import Crop
from kdsr_arch.data.keys import natural, safe_key
from kdsr_arch.data.sources import FolderSource, LmdbSource, open_source
from kdsr_arch.data.store import lmdb_store
from kdsr_arch.data.store.codec import codec_named
from tests.helpers.messages import refuses


@pytest.fixture
def broken_lmdb(clip_lmdb, tmp_path):
    """A copy of the store, to be damaged."""
    return shutil.copytree(clip_lmdb, tmp_path / "broken.lmdb")


def test_lmdb_and_folder_are_identical(clip_root, clip_lmdb):
    folder, store = open_source(clip_root), open_source(clip_lmdb)
    assert isinstance(folder, FolderSource) and isinstance(store, LmdbSource)
    assert folder.clips() == store.clips()
    assert [len(keys) for keys in folder.clips().values()] == [8, 5]
    for key in folder:
        assert folder.size(key) == store.size(key)
        np.testing.assert_array_equal(folder.get(key), store.get(key))
        crop = Crop(3, 5, 17, 19)
        np.testing.assert_array_equal(folder.get(key, crop), store.get(key, crop))
        np.testing.assert_array_equal(folder.get(key, crop), crop.of(store.get(key)))
    keys = folder.keys()[:3]
    for one, many in zip(keys, store.get_many(keys, Crop(0, 0, 8, 8)), strict=True):
        np.testing.assert_array_equal(folder.get(one)[:8, :8], many)


def test_threads_that_come_at_once_open_a_store_once(clip_lmdb, monkeypatch):
    lmdb_store.close_all()
    store, real_open, came = LmdbSource(clip_lmdb), lmdb.open, threading.Barrier(2)

    def slow_open(*args, **options):
        time.sleep(0.2)  # the other thread is here by now
        return real_open(*args, **options)

    def first_frame():
        came.wait()
        return store.get(store.keys()[0])

    monkeypatch.setattr(lmdb, "open", slow_open)
    with ThreadPoolExecutor(2) as pool:
        one, other = (future.result() for future in [pool.submit(first_frame) for _ in range(2)])
    np.testing.assert_array_equal(one, other)


def test_natural_order_and_suffixes(frames, tmp_path, save):
    for name in ("im10", "im2", "im1"):
        save(tmp_path / "a" / f"{name}.png", frames[0][:8, :8])
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / ".hidden.png").write_bytes(b"")
    save(tmp_path / "a" / "im11.bmp", frames[0][:8, :8])
    assert FolderSource(tmp_path).keys() == ["a/im1", "a/im2", "a/im10", "a/im11"]
    assert sorted(["b", "10", "9", "a10", "a9"], key=natural) == ["9", "10", "a9", "a10", "b"]


def test_basicsr_reads_ours_and_we_read_basicsrs(clip_root, clip_lmdb, tmp_path):

    from basicsr.utils import FileClient, imfrombytes
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    lmdb_store.close_all()  # LMDB allows one environment per store and process
    folder = FolderSource(clip_root)
    keys = folder.keys()
    client = FileClient("lmdb", db_paths=[str(clip_lmdb)], client_keys=["gt"])
    assert not lmdb_store._open
    theirs = imfrombytes(client.get(keys[4], "gt"))[..., ::-1]
    np.testing.assert_array_equal(theirs, folder.get(keys[4]))
    out = tmp_path / "basicsr.lmdb"
    make_lmdb_from_imgs(str(clip_root), str(out), [f"{key}.png" for key in keys], keys)
    assert (out / "meta_info.txt").read_text() == (clip_lmdb / "meta_info.txt").read_text()
    np.testing.assert_array_equal(LmdbSource(out).get(keys[4]), folder.get(keys[4]))


def _child(source, key, queue):
    frame = source.get(key)
    queue.put((int(frame.sum()), lmdb_store._owner == os.getpid()))


def test_a_forked_worker_opens_its_own_environment(clip_lmdb):
    source = LmdbSource(clip_lmdb)
    key = source.keys()[0]
    expected = int(source.get(key).sum())
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=_child, args=(source, key, queue)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert [queue.get() for _ in children] == [(expected, True)] * 2
    assert int(source.get(key).sum()) == expected


def test_missing_roots_and_empty_folders(tmp_path):
    for name in ("absent", "absent.lmdb"):
        with refuses(tmp_path / name):
            open_source(tmp_path / name)
    with refuses(tmp_path, ".png"):
        open_source(tmp_path)


def test_unknown_keys_have_near_misses(clip_root, clip_lmdb):
    for source in (FolderSource(clip_root), LmdbSource(clip_lmdb)):
        with refuses("'000/00000008'", near="000/00000007"):
            source.get("000/00000008")


def test_same_key_twice(frames, tmp_path, save):
    save(tmp_path / "a.png", frames[0][:8, :8])
    save(tmp_path / "a.bmp", frames[0][:8, :8])
    with refuses(tmp_path, "'a.png'", "'a.bmp'"):
        FolderSource(tmp_path)


def test_lmdb_without_its_parts(broken_lmdb):
    (broken_lmdb / "meta_info.txt").rename(broken_lmdb / "other.txt")
    with refuses("broken.lmdb", "meta_info.txt"):
        LmdbSource(broken_lmdb)
    (broken_lmdb / "data.mdb").unlink()
    with refuses("broken.lmdb", "data.mdb"):
        LmdbSource(broken_lmdb)


@pytest.mark.parametrize("kept", [0, 100, 4096, 8192, 0.5, 0.99])
def test_truncated_lmdb(broken_lmdb, kept):
    data = broken_lmdb / "data.mdb"
    os.truncate(data, int(kept * data.stat().st_size) if isinstance(kept, float) else kept)
    with refuses("broken.lmdb", "data.mdb"):
        LmdbSource(broken_lmdb)


def test_a_store_made_with_a_tight_map_that_grows_while_it_is_open(clip_root, tmp_path):
    """As copied from elsewhere, or written in place by another program while it is read."""
    folder = FolderSource(clip_root)
    keys = folder.keys()
    values = {key: folder.encoded(key) for key in keys}
    root = tmp_path / "tight.lmdb"
    with lmdb.open(str(root), map_size=40 * 4096) as environment, environment.begin(write=True) as transaction:
        transaction.put(keys[0].encode(), values[keys[0]])
    lines = [f"{key}.png ({folder.size(key)[0]},{folder.size(key)[1]},3) 1\n" for key in keys]
    (root / "meta_info.txt").write_text("".join(lines))
    source = LmdbSource(root)
    np.testing.assert_array_equal(source.get(keys[0]), folder.get(keys[0]))
    with refuses("tight.lmdb", "'000/00000001'", "data.mdb"):
        source.get(keys[1])
    code = (
        "import lmdb, sys, pathlib\n"
        "with lmdb.open(sys.argv[1], map_size=64 << 20) as environment, environment.begin(write=True) as transaction:\n"
        "    for path in sorted(pathlib.Path(sys.argv[2]).rglob('*.png')):\n"
        "        key = path.relative_to(sys.argv[2]).with_suffix('').as_posix()\n"
        "        for copy in range(20):\n"
        "            transaction.put(f'{key}{copy or str()}'.encode(), path.read_bytes())\n"
    )
    subprocess.run([sys.executable, "-c", code, str(root), str(clip_root)], check=True, timeout=120)
    for key in keys:
        np.testing.assert_array_equal(source.get(key), folder.get(key))


def test_lmdb_with_a_key_missing(broken_lmdb):
    meta = broken_lmdb / "meta_info.txt"
    meta.write_text(meta.read_text() + "002/00000000.png (64,80,3) 1\n")
    with refuses("broken.lmdb", "'002/00000000'", "data.mdb"):
        LmdbSource(broken_lmdb).get("002/00000000")


def test_a_store_that_may_not_be_read_asks_for_permission(broken_lmdb, monkeypatch):
    def forbidden(path, **_):
        raise lmdb.Error(f"{path}: Permission denied")

    monkeypatch.setattr(lmdb, "open", forbidden)
    with refuses("broken.lmdb", "Permission denied", "permissions", without=["convert"]):
        LmdbSource(broken_lmdb)


@pytest.mark.parametrize("name", ["png", "raw"])
def test_a_frame_that_is_listed_smaller_than_it_is_gives_no_crops(broken_lmdb, frames, name):
    with lmdb.open(str(broken_lmdb)) as env, env.begin(write=True) as transaction:
        transaction.put(b"000/00000003", codec_named(name).encode(np.ascontiguousarray(frames[3][:64, :80])))
    meta = broken_lmdb / "meta_info.txt"
    meta.write_text(meta.read_text().replace("000/00000003.png (64,80,3)", "000/00000003.png (32,32,3)"))
    for crop in (None, Crop(0, 0, 16, 16)):
        with refuses("broken.lmdb", "'000/00000003'", "64x80", "32x32"):
            LmdbSource(broken_lmdb).get("000/00000003", crop)


def test_lmdb_with_a_damaged_value(broken_lmdb):
    with lmdb.open(str(broken_lmdb)) as env, env.begin(write=True) as transaction:
        transaction.put(b"000/00000003", transaction.get(b"000/00000003")[:500])
    with refuses("broken.lmdb", "'000/00000003'", "decode"):
        LmdbSource(broken_lmdb).get("000/00000003")


@pytest.mark.parametrize("line", ["000/00000000.png", "a.png (x,y,3) 1", "a.png (4) 1"])
def test_bad_meta_lines_are_named(broken_lmdb, line):
    (broken_lmdb / "meta_info.txt").write_text(f"b.png (8,8,3) 1\n{line}\n")
    with refuses("meta_info.txt, line 2", "key.png (h,w,c) level", f"'{line}'"):
        LmdbSource(broken_lmdb)


@pytest.mark.parametrize("key", ["../a", "a/../../b", "/etc/passwd", "a\\..\\b", "C:/a", ""])
def test_keys_stay_inside_the_root(broken_lmdb, key):
    with refuses("list.txt", f"'{key}'"):
        safe_key(key, "list.txt")
    if key:
        (broken_lmdb / "meta_info.txt").write_text(f"{key}.png (8,8,3) 1\n")
        with refuses("meta_info.txt, line 1", f"'{key}'"):
            LmdbSource(broken_lmdb)


def test_undecodable_file_is_named(clip_root, tmp_path):
    root = shutil.copytree(clip_root, tmp_path / "clips")
    torn = root / "001" / "00000002.png"
    os.truncate(torn, 300)
    with refuses("001/00000002.png", "decode"):
        FolderSource(root).get("001/00000002")
