"""Conversions that are killed, stopped, or meet bad files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdsr_arch import errors
from kdsr_arch.data.pairs import DegradedSource
from kdsr_arch.data.prepare import frame_writer as convert
from kdsr_arch.data.prepare.frame_writer import Making
from kdsr_arch.data.prepare.plans import convert_clips, convert_images, convert_store
from kdsr_arch.data.sources import FolderSource, LmdbSource
from kdsr_arch.data.store.codec import codec_named
from kdsr_arch.data.store.lmdb_store import reading
from tests.helpers.messages import refuses

LOW = {"scale": 4, "kind": "BI", "border": "symmetric"}
KILLS = 20


def content(path: Path) -> dict[bytes, bytes]:
    with reading(path) as transaction:
        stored = {bytes(key): bytes(value) for key, value in transaction.cursor()}
    return stored | {p.name.encode(): p.read_bytes() for p in path.iterdir() if p.suffix in (".txt", ".json")}


@pytest.fixture(scope="module")
def many(tmp_path_factory, frames, save) -> Path:
    root = tmp_path_factory.mktemp("many")
    for index in range(60):
        frame = frames[index % 12][index : index + 32, index : index + 48]
        save(root / f"{index // 20:03d}" / f"{index % 20:08d}.png", frame)
    return root


@pytest.mark.slow
def test_killed_at_twenty_moments_the_content_is_the_same(many, tmp_path):
    expected = tmp_path / "expected.lmdb"
    convert_clips(many, expected, making=Making(codec_named("webp", 16), low=LOW, processes=1))
    out, kills, seed = tmp_path / "out.lmdb", 0, np.random.default_rng(0)
    states = set()
    while kills < KILLS and not out.exists():
        begun, begin = os.pipe()
        child = os.fork()  # not a new interpreter, so that the imports are paid for once
        if child == 0:
            os.write(begin, b"!")
            try:
                _convert_slowly(many, out, 1 + kills % 2)
            finally:
                os._exit(0)
        os.read(begun, 1)
        os.close(begun), os.close(begin)
        time.sleep(float(seed.uniform(0.005, 0.15)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        states.add(_done(out))
    assert kills >= KILLS // 2 and len(states) > 1  # really at different places
    if not out.exists():  # a fast machine may have come to the end between two kills
        convert_clips(many, out, making=Making(codec_named("webp", 16), low=LOW, processes=2))
    assert content(out) == content(expected)
    assert not (tmp_path / ".out.lmdb.partial").exists()


def _convert_slowly(source: Path, out: Path, processes: int) -> None:
    """Commits after every frame, and takes its time, so that a kill at any moment meets another state."""
    from kdsr_arch.data.store import lmdb_store

    plain = lmdb_store.LmdbWriter.commit

    def slow(self):
        plain(self)
        time.sleep(0.04)

    lmdb_store._COMMIT_BYTES = 1
    lmdb_store.LmdbWriter.commit = slow
    convert_clips(source, out, making=Making(codec_named("webp", 16), low=LOW, processes=processes))


def _done(out: Path) -> int:
    import lmdb

    work = out.with_name(f".{out.name}.partial")
    if not (work / "data.mdb").exists():
        return -1
    with lmdb.open(str(work), readonly=True, lock=False) as environment:
        return environment.stat()["entries"]


def test_changed_files_and_settings_are_not_mixed(many, tmp_path, save, frames, monkeypatch):
    root = tmp_path / "in"
    for index in range(6):
        save(root / "a" / f"{index}.png", frames[index])
    (root / "a" / "5.png").write_bytes(b"torn")
    with refuses("in/a/5.png", "5 frames", "--skip-bad"):
        convert_clips(root, tmp_path / "out.lmdb")
    with refuses(".out.lmdb.partial", "codec", "'png of level 1'", "'webp tiles of auto'"):
        convert_clips(root, tmp_path / "out.lmdb", making=Making(codec_named("webp")))
    save(root / "a" / "5.png", frames[5])
    os.utime(root / "a" / "2.png", (1, 1))
    with refuses(".out.lmdb.partial", "changed"):
        convert_clips(root, tmp_path / "out.lmdb")


def test_bad_frames_are_left_out_and_listed(tmp_path, save, frames, capsys):
    root = tmp_path / "in" / "a"
    for index in range(9):
        save(root / f"{index}.png", frames[index])
    (root / "1.png").write_bytes((root / "1.png").read_bytes()[:900])
    save(root / "3.png", frames[3][:9])
    (root / "5.png").unlink()
    cv2.imwrite(str(root / "5.tiff"), frames[5].astype(np.float32))
    (root / "7.png").write_text("no image at all")
    (root / "8.png").unlink()
    (root / "8.png").symlink_to("nowhere.png")
    shapes = convert_clips(tmp_path / "in", tmp_path / "out.lmdb", making=Making(skip_bad=True))
    assert shapes == {"a": (4, 144, 176)}
    skipped = [line.split("\t") for line in (tmp_path / "out.lmdb" / "skipped.txt").read_text().splitlines()]
    assert [key for key, _ in skipped] == ["a/1", "a/3", "a/5", "a/7", "a/8"]
    for (_, reason), words in zip(
        skipped, ("does not decode", "9x176, other frames", "beyond 0 to 1", "does not decode", "cannot be read"),
        strict=True,
    ):  # fmt: skip
        assert words in reason
    assert LmdbSource(tmp_path / "out.lmdb").keys() == ["a/0", "a/2", "a/4", "a/6"]
    for path in root.iterdir():
        path.unlink()
    (root / "1.png").write_text("no image at all")
    with refuses("none.lmdb", "in/a/1.png"):
        convert_clips(tmp_path / "in", tmp_path / "none.lmdb", making=Making(skip_bad=True))


def test_leaving_out_can_be_decided_later(tmp_path, save, frames):
    for index in range(4):
        save(tmp_path / "in" / "a" / f"{index}.png", frames[index])
    (tmp_path / "in" / "a" / "2.png").write_text("no image at all")
    with refuses("in/a/2.png", "--skip-bad"):
        convert_clips(tmp_path / "in", tmp_path / "out.lmdb")
    assert convert_clips(tmp_path / "in", tmp_path / "out.lmdb", making=Making(skip_bad=True)) == {"a": (3, 144, 176)}


def test_missing_numbers_are_named(tmp_path, save, frames, caplog, monkeypatch):
    monkeypatch.setattr(errors, "_said", set())
    for index in (0, 1, 2, 4):
        save(tmp_path / "in" / "a" / f"{index:03d}.png", frames[index])
    with refuses("'a'", "'a/002'", "'a/004'", "--skip-bad"):
        convert_clips(tmp_path / "in", tmp_path / "out.lmdb")
    assert convert_clips(tmp_path / "in", tmp_path / "out.lmdb", making=Making(skip_bad=True)) == {"a": (4, 144, 176)}
    assert "between 'a/002' and 'a/004'" in caplog.text


def test_alpha_links_and_names_of_any_language(tmp_path, save, frames, caplog, monkeypatch):
    monkeypatch.setattr(errors, "_said", set())
    root = tmp_path / "in" / "クリップ"
    save(tmp_path / "elsewhere" / "0.png", frames[0])
    save(root / "é1.png", np.dstack([frames[1], frames[1][..., 0]]))
    (root / "é0.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    convert_clips(tmp_path / "in", tmp_path / "out.lmdb")
    source = LmdbSource(tmp_path / "out.lmdb")
    assert source.keys() == ["linked/0", "クリップ/é0", "クリップ/é1"]
    np.testing.assert_array_equal(source.get("クリップ/é1"), frames[1])
    np.testing.assert_array_equal(source.get("linked/0"), source.get("クリップ/é0"))
    assert "alpha channels are dropped" in caplog.text
    (root / "up").symlink_to(tmp_path / "in")
    with refuses("up", "link"):
        FolderSource(tmp_path / "in")
    (root / "up").unlink()
    save(root / "x.png", frames[0])
    os.rename(os.fsencode(root / "x.png"), os.fsencode(root) + b"/\xff.png")
    with refuses("UTF-8"):
        convert_clips(tmp_path / "in", tmp_path / "b.lmdb")


@pytest.mark.parametrize("names", [("webp", "png", "webp"), ("raw", "webp", "raw")])
def test_formats_convert_into_each_other(clip_root, tmp_path, names):
    low = Making(codec_named(names[0]), low=LOW)
    convert_clips(clip_root, tmp_path / "0.lmdb", making=low)
    for step, name in enumerate(names[1:], 1):
        convert_store(tmp_path / f"{step - 1}.lmdb", tmp_path / f"{step}.lmdb", Making(codec_named(name)))
        assert LmdbSource(tmp_path / f"{step}.lmdb").sides() == ["x4_BI_symmetric"]
    first, last = content(tmp_path / "0.lmdb"), content(tmp_path / "2.lmdb")
    assert first == last
    source, middle = FolderSource(clip_root), LmdbSource(tmp_path / "1.lmdb")
    small = LmdbSource(tmp_path / "1.lmdb", "x4_BI_symmetric")
    for key in source:
        np.testing.assert_array_equal(middle.get(key), source.get(key))
        np.testing.assert_array_equal(small.get(key), DegradedSource(source, 4).get(key))


def test_images_too_small_for_lr_are_named(tmp_path, save, frames):
    save(tmp_path / "in" / "a.png", frames[0][:3])
    with refuses("in/a.png", "3x176", "scale 4"):
        convert_images([tmp_path / "in"], tmp_path / "a.lmdb", making=Making(low=LOW))


def test_an_interrupt_keeps_what_is_done(many, tmp_path, monkeypatch):
    taken = convert._Run.take

    def interrupted(self, label, values):
        if self.done == 7:
            raise KeyboardInterrupt
        taken(self, label, values)

    monkeypatch.setattr(convert._Run, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_clips(many, tmp_path / "a.lmdb")
    monkeypatch.setattr(convert._Run, "take", taken)
    assert _done(tmp_path / "a.lmdb") == 7 + 1  # and the state
    convert_clips(many, tmp_path / "a.lmdb")
    assert len(LmdbSource(tmp_path / "a.lmdb").keys()) == 60


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(many, tmp_path):
    code = (
        "import time\nfrom kdsr_arch.data.prepare.workers import ordered_map\n"
        "def items():\n    for i in range(10**6):\n        yield 0.01\n"
        "for n, _ in enumerate(ordered_map(time.sleep, items(), 2)):\n    n == 5 and print('ready', flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    workers = _children(child.pid)
    assert len(workers) == 2
    child.kill()
    child.wait()
    limit = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
