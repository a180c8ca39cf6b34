"""`kdsr lmdb`, as a person runs it."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil

import cv2
import lmdb
import numpy as np
import pytest
from PIL import Image

from kdsr_arch.cli import main
from kdsr_arch.data.pairs import DegradedSource
from kdsr_arch.data.prepare import store_tools
from kdsr_arch.data.prepare.store_tools import verify
from kdsr_arch.data.sources import FolderSource, LmdbSource
from kdsr_arch.data.store.codec import codec_of
from tests.helpers.messages import missing


@pytest.fixture
def kdsr(store, capsys):
    """``kdsr(words...)`` runs ``kdsr lmdb``; returns (exit code, stdout, stderr)."""
    capsys.readouterr()

    def call(*words: object) -> tuple[int, str, str]:
        code = main(["lmdb", *map(str, words)])
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def store(clip_root, tmp_path):
    assert main(["lmdb", "create", str(clip_root), str(tmp_path / "a.lmdb"), "--lr", "4", "BI", "--quiet"]) == 0
    return tmp_path / "a.lmdb"


def test_create_tells_what_it_made(kdsr, clip_root, tmp_path, store):
    code, out, err = kdsr("info", store)
    assert code == 0 and err == ""
    assert "frames: 13 in 2 clips (8 of 80x64, 5 of 64x48), webp tiles of 64" in out
    assert "LR 'x4_BI_symmetric': 13 in 2 clips" in out and "of raw pixels" in out
    assert (tmp_path / "a.txt").read_text() == "000 8 (64,80,3)\n001 5 (48,64,3)\n"
    code, out, err = kdsr("create", clip_root, store)
    assert code == 2 and err.startswith("error: ") and "exists already" in err
    code, out, err = kdsr("create", clip_root, tmp_path / "b.lmdb", "--codec", "raw")
    assert code == 0 and "b.lmdb: 100%" in err and "13/13" in err and "frames/s" in err


@pytest.mark.parametrize("words", [["--multiple", 4], ["--halve"], ["--patch", 32], ["--split", "train"]])
def test_arguments_for_another_kind_of_source_are_refused(kdsr, clip_root, tmp_path, words):
    code, _, err = kdsr("create", clip_root, tmp_path / "b.lmdb", *words)
    assert code == 2 and not missing(err, words[0], clip_root, "clips") and not (tmp_path / "b.lmdb").exists()


def test_what_a_source_is_is_found_out(kdsr, frames, tmp_path, save):
    save(tmp_path / "in" / "0001x4.png", frames[0])
    code, out, _ = kdsr("create", tmp_path / "in", tmp_path / "i.lmdb", "--strip", "x4", "--patch", 64, "--quiet")
    assert code == 0 and LmdbSource(tmp_path / "i.lmdb").keys()[0] == "0001_s001"
    for split in ("train", "val"):
        save(tmp_path / "reds" / f"{split}_sharp" / "000" / "00000000.png", frames[0])
    assert kdsr("create", tmp_path / "reds", tmp_path / "made", "--quiet")[0] == 0
    assert LmdbSource(tmp_path / "made" / "train_sharp_with_val.lmdb").keys() == ["000/00000000", "240/00000000"]
    assert "nowhere: no such folder" in kdsr("create", tmp_path / "nowhere", tmp_path / "x.lmdb")[2]
    for words in (("--lr", "1", "BI"), ("--lr", "4", "XX"), ("--lr-only",), ("--processes", 0), ("--tile", 3)):
        code, out, err = kdsr("create", tmp_path / "in", tmp_path / "x.lmdb", *words)
        assert code == 2 and err.startswith("error: ") and "Traceback" not in err, words
    assert not (tmp_path / "x.lmdb").exists()


def test_a_training_set_in_one_command(kdsr, frames, tmp_path, save):
    for folder, name, number in (("a", "x", 0), ("a", "y", 1), ("b", "x", 2)):
        save(tmp_path / folder / f"{name}.png", frames[number])
    save(tmp_path / "clips" / "000" / "0.png", frames[0])
    words = (tmp_path / "a", tmp_path / "b", tmp_path / "t.lmdb", "--max-side", 64, "--lr", 4, "BI", "--quiet")
    code, out, _ = kdsr("create", *words, "--hold-out", tmp_path / "a", tmp_path / "v.lmdb")
    assert code == 0 and "t.lmdb" in out and "v.lmdb" in out
    train, low = LmdbSource(tmp_path / "t.lmdb"), LmdbSource(tmp_path / "t.lmdb", "x4_BI_symmetric")
    assert train.keys() == low.keys() == [f"{k}_s{n:03d}" for k in ("a_y", "b_x") for n in (1, 2, 3, 4)]
    assert low.size("a_y_s001") == (18, 22) and LmdbSource(tmp_path / "v.lmdb").keys() == ["a_x_s001"]
    for more in (("--patch", 32), ("--lr-only",), ("--min-side", -1), ("--step", 8)):
        code, _, err = kdsr("create", *words[:2], tmp_path / "x.lmdb", *words[3:], *more)
        assert code == 2 and more[0] in err
    code, _, err = kdsr("create", tmp_path / "clips", tmp_path / "a", tmp_path / "x.lmdb")
    assert code == 2 and "several sources are for images" in err


def test_a_name_that_is_nothing_but_what_is_stripped_is_named(kdsr, frames, tmp_path, save):
    file = save(tmp_path / "in" / "x4.png", frames[0])
    code, _, err = kdsr("create", tmp_path / "in", tmp_path / "out.lmdb", "--strip", "x4")
    assert code == 2 and not missing(err, file, "--strip x4") and not (tmp_path / "out.lmdb").exists()


def test_clips_named_twice_are_stored_once(kdsr, clip_root, tmp_path):
    code, _, _ = kdsr("create", clip_root, tmp_path / "out.lmdb", "--clips", "000", "000")
    assert code == 0 and list(LmdbSource(tmp_path / "out.lmdb").clips()) == ["000"]


def test_verify_names_what_is_damaged(kdsr, store):
    assert kdsr("verify", store)[:2] == (0, f"{store}: whole\n")
    with lmdb.open(str(store)) as environment, environment.begin(write=True) as transaction:
        for key in (b"000/00000003", b"x4_BI_symmetric/001/00000002"):
            value = bytearray(transaction.get(key))
            value[len(value) // 2] ^= 4
            transaction.put(key, bytes(value))
        transaction.delete(b"001/00000001")
        transaction.put(b"stray", b"?")
    code, out, _ = kdsr("verify", store, "--processes", 2)
    assert code == 1 and f"{store}: 4 faults" in out
    assert "'000/00000003': the stored frame is damaged" in out and "(x4_BI_symmetric): '001/00000002'" in out
    assert (
        "'001/00000001' is in meta_info.txt but not in data.mdb" in out and "stray: is in data.mdb, but no list" in out
    )


@pytest.mark.parametrize("count", [0, -1])
def test_verify_needs_a_process(kdsr, store, count):
    code, _, err = kdsr("verify", store, "--processes", count)
    assert code == 2 and not missing(err, "--processes", count)


def test_verify_compares_sizes(store):
    meta = store / "meta_info.txt"
    meta.write_text(meta.read_text().replace("(48,64,3)", "(48,60,3)"))
    key, reason = verify(store)[0]
    assert key == "001/00000000" and reason.endswith("is 48x64, listed as 48x60")


@pytest.mark.parametrize("codec", ["webp", "raw", "png"])
def test_a_byte_flipped_in_the_file_itself(kdsr, clip_root, tmp_path, codec):
    store = tmp_path / "c.lmdb"
    kdsr("create", clip_root, store, "--codec", codec, "--quiet")
    data = bytearray((store / "data.mdb").read_bytes())
    with lmdb.open(str(store), readonly=True, lock=False) as environment, environment.begin() as transaction:
        place = data.index(transaction.get(b"001/00000004")) + 500
    data[place] ^= 1
    (store / "data.mdb").write_bytes(data)
    code, out, _ = kdsr("verify", store)
    assert code == 1 and "'001/00000004': the stored frame is damaged" in out and "1 faults" in out


def test_a_truncated_store_is_one_sentence(kdsr, store):
    os.truncate(store / "data.mdb", (store / "data.mdb").stat().st_size - 4096)
    for action in (("info",), ("verify",), ("cat", store, "000/00000000")):
        code, out, err = kdsr(action[0], store, *action[2:])
        assert code == 2 and "data.mdb is truncated" in err


def test_cat_and_export(store, clip_root, tmp_path, capfdbinary):
    source = FolderSource(clip_root)
    frame = source.get("000/00000003")
    capfdbinary.readouterr()
    assert main(["lmdb", "cat", str(store), "000/00000003"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(capfdbinary.readouterr().out))), frame)
    words = ["cat", str(store), "000/00000003", "-o", str(tmp_path / "p.png"), "--crop", "8", "4", "16", "12"]
    assert main(["lmdb", *words]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "p.png")), frame[8:24, 4:16])
    words = ["cat", str(store), "000/00000003", "-o", str(tmp_path / "l.png"), "--side", "x4_BI_symmetric"]
    assert main(["lmdb", *words]) == 0
    low = DegradedSource(source, 4).get("000/00000003")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "l.png")), low)
    assert main(["lmdb", "export", str(store), str(tmp_path / "files")]) == 0
    again = FolderSource(tmp_path / "files")
    assert again.keys() == source.keys()
    for key in source:
        np.testing.assert_array_equal(again.get(key), source.get(key))
    assert main(["lmdb", "export", str(store), str(tmp_path / "files")]) == 2
    assert main(["lmdb", "cat", str(store), "000/0000003"]) == 2
    assert b"did you mean" in capfdbinary.readouterr().err


def test_an_export_that_fails_leaves_no_part_of_a_file(kdsr, store, tmp_path, monkeypatch):
    whole = os.fsync

    def full(handle):
        if len(list((tmp_path / "out").rglob("0*.png"))) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(handle)

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(store_tools, "available_cores", lambda: 1)
    code, _, err = kdsr("export", store, tmp_path / "out")
    assert code == 2 and not missing(err, tmp_path / "out", "no space left", "remove")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 3 and all(cv2.imread(str(path)) is not None for path in files)


def test_cat_makes_folders_and_refuses_what_it_cannot_write(kdsr, store, tmp_path):
    assert kdsr("cat", store, "000/00000003", "-o", tmp_path / "new" / "ä.png")[0] == 0
    assert Image.open(tmp_path / "new" / "ä.png").size == (80, 64)
    code, _, err = kdsr("cat", store, "000/00000003", "-o", tmp_path / "a.jpg")
    assert code == 2 and not missing(err, tmp_path / "a.jpg", ".png") and not (tmp_path / "a.jpg").exists()


@pytest.mark.parametrize("words", [["cat", "000/00000003"], ["export", "out"]], ids=lambda words: words[0])
def test_an_unknown_side_is_told_with_those_that_there_are(kdsr, store, words):
    code, _, err = kdsr(words[0], store, words[1], "--side", "x4_BI")
    assert code == 2 and not missing(err, store, "'x4_BI'", "did you mean 'x4_BI_symmetric'")


def test_a_store_of_teacher_outputs_is_known_as_one(kdsr, store):
    (store / "meta_info.txt").unlink()
    (store / "teacher.json").write_text("{}")
    code, _, err = kdsr("info", store)
    assert code == 2 and not missing(err, store, "kdsr cache-teacher", "teacher_cache") and "broken off" not in err


def test_a_stopped_conversion_to_lr_is_not_gone_on_with_by_another_degradation(kdsr, frames, tmp_path, save):
    source, out = tmp_path / "in", tmp_path / "lr.lmdb"
    save(source / "a.png", frames[0])
    (source / "b.png").write_bytes(b"")
    assert kdsr("create", source, out, "--lr", 4, "BI", "--lr-only")[0] == 2  # after a.png
    save(source / "b.png", frames[1])
    code, _, err = kdsr("create", source, out, "--lr", 2, "BD", "--lr-only")
    assert code == 2 and not missing(err, ".lr.lmdb.partial", "remove it") and not out.exists()
    assert kdsr("create", source, out, "--lr", 4, "BI", "--lr-only")[0] == 0


def test_convert_to_basicsrs_format_and_back(kdsr, store, clip_root, tmp_path):
    assert kdsr("convert", store, tmp_path / "png.lmdb", "--codec", "png", "--quiet")[0] == 0
    assert kdsr("convert", tmp_path / "png.lmdb", tmp_path / "raw.lmdb", "--codec", "raw", "--quiet")[0] == 0
    source = FolderSource(clip_root)
    png, raw = LmdbSource(tmp_path / "png.lmdb"), LmdbSource(tmp_path / "raw.lmdb")
    assert png.encoded("000/00000000").startswith(b"\x89PNG")
    for key in source:
        np.testing.assert_array_equal(raw.get(key), source.get(key))
        assert codec_of(raw.encoded(key)).described(raw.encoded(key)) == "raw tiles of 64"


def test_a_store_that_is_still_written_is_said_to_be(kdsr, store, tmp_path):
    half = shutil.copytree(store, tmp_path / "half.lmdb")
    (half / "meta_info.txt").unlink()
    assert "it is still being written or was broken off" in kdsr("info", half)[2]
    store.rename(tmp_path / ".b.lmdb.partial")
    assert "b.lmdb: its conversion is not finished; run the same command again" in kdsr("info", tmp_path / "b.lmdb")[2]


def test_clips_of_stills(kdsr, frames, tmp_path, save):
    save(tmp_path / "photos" / "a.png", np.tile(frames[0], (2, 2, 1)))
    out = tmp_path / "stills.lmdb"
    words = ("create", tmp_path / "photos", out, "--kind", "stills", "--length", 3, "--size", 48, 64, "--seed", 1)
    code, _, err = kdsr(*words, "--camera", "shfit=2", "--quiet")
    assert code == 2 and not missing(err, "--camera", near="shift")
    code, _, err = kdsr(*words, "--camera", "shift=fast", "--quiet")
    assert code == 2 and not missing(err, "--camera", "shift=fast") and not out.exists()
    code, text, _ = kdsr(*words, "--camera", "shift=2", "density=1.5,2", "--lr", 4, "BI", "--quiet")
    assert code == 0 and "frames: 3 in 1 clips (3 of 64x48)" in text and "flow: 2 in 1 clips" in text
    assert "LR 'x4_BI_symmetric': 3 in 1 clips" in text
    assert kdsr("verify", out)[0] == 0
    assert kdsr("convert", out, tmp_path / "raw.lmdb", "--codec", "raw", "--quiet")[0] == 0
    made, kept = (json.loads((path / "conversion.json").read_text()) for path in (out, tmp_path / "raw.lmdb"))
    assert kept == made | {"codec": kept["codec"]} and made["rendered"] and made["low"]
    code, text, _ = kdsr("export", out, tmp_path / "flow", "--side", "flow")
    assert code == 0 and cv2.imread(str(tmp_path / "flow/0000/00000001.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16
