"""Names as people, cameras and other systems give them, through stores, lists, logs and tables."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdsr_arch.cli import main
from kdsr_arch.data.clip_dataset import ClipDataset, listed_clips
from kdsr_arch.data.keys import listed_name, read_list, stored_key
from kdsr_arch.data.prepare.frame_writer import SKIPPED_FILE, Making, write_clip_list
from kdsr_arch.data.prepare.plans import convert_clips, convert_images, prepare_video_clips
from kdsr_arch.data.sources import FolderSource, LmdbSource
from kdsr_arch.log import TextLog, get_logger
from tests.helpers.images import texture
from tests.helpers.messages import refuses

ODD = [
    *("photo (1)", "a (3,4,5) b", "v\u2028w", "n\x85m", "x\x0cy", "\x1c", " lead", "trail ", "100%", "ü", "漢字\u3000"),
    *("#hash", "render.1001", "render.1002", "comma, (2,3)", "a'b\"c", "{}", "a..dots"),
]
NOT_UTF8 = os.fsdecode(b"\xc4\xe3\xba\xc3")  # a name out of a zip from a Chinese Windows


def write_frame(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", texture(32, 40, np.random.default_rng(seed)))[1].tobytes())


@pytest.fixture
def odd(tmp_path) -> Path:
    """A folder of images with odd names, each with other pixels."""
    for seed, name in enumerate(ODD):
        write_frame(tmp_path / "odd" / f"{name}.png", seed)
    return tmp_path / "odd"


def test_a_store_holds_every_name_that_a_folder_does(odd, tmp_path):
    convert_images([odd], tmp_path / "odd.lmdb")
    folder, store = FolderSource(odd), LmdbSource(tmp_path / "odd.lmdb")
    assert sorted(store.keys()) == sorted(folder.keys()) == sorted(ODD)
    for key in ODD:
        np.testing.assert_array_equal(store.get(key), folder.get(key))


def test_clips_with_odd_names_come_back_from_store_and_list(tmp_path):
    names = [*ODD, "clip", "clip 2", "clip 3", "my clip", "5 (1,1,3)"]
    for name in names:
        for number in range(2):
            write_frame(tmp_path / "clips" / name / f"{number:03d}.png")
    convert_clips(tmp_path / "clips", tmp_path / "clips.lmdb")
    assert listed_clips(tmp_path / "clips.txt") == dict.fromkeys(sorted(names), 2) | dict.fromkeys(names, 2)
    for root in ("clips", "clips.lmdb"):
        dataset = ClipDataset(
            dataroot_gt=tmp_path / root, meta_info_file=tmp_path / "clips.txt", scale=2, phase="val", name="odd"
        )
        assert sorted(clip.name for clip in dataset.selected) == sorted(names)


@pytest.mark.parametrize("name", [*ODD, "a/b", " # ", "clip 2", "7", "7 (1,2)"])
@pytest.mark.parametrize("count", [1, 100])
def test_written_lists_are_read_back(tmp_path, name, count):
    write_clip_list({name: (count, 8, 9)}, tmp_path / "list.txt")
    assert listed_clips(tmp_path / "list.txt") == {name: count}
    (tmp_path / "bare.txt").write_text(f"{listed_name(name)}\n", encoding="utf-8")
    if not name.endswith(")"):
        assert listed_clips(tmp_path / "bare.txt") == {name: None}


def test_lists_as_editors_and_scripts_write_them(tmp_path):
    root = tmp_path / "data"
    lines = [
        "# REDS4",
        "",
        "000 100 (720,1280,3)",
        "  clip 2  ",
        f"{root}/my clip",
        f"{root}/011/ 7 (2,3)",
        "#015",
        "./#1",
    ]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    clips = listed_clips(tmp_path / "list.txt", {root: ""})
    assert clips == {"000": 100, "clip 2": None, "my clip": None, "011": 7, "#1": None}
    with refuses("list.txt, line 5", f"{root}/my clip"):
        listed_clips(tmp_path / "list.txt", {tmp_path / "other": ""})
    assert "B/my clip" in listed_clips(tmp_path / "list.txt", {root: "B"})  # of several roots
    (tmp_path / "images.txt").write_text("0001_s001.png (480,480,3)\nphoto 1 (2).png (480,480,3) 1\nbare.png\n")
    names = [(listed.name, listed.frames) for listed in read_list(tmp_path / "images.txt", counts=False)]
    assert names == [("0001_s001.png", None), ("photo 1 (2).png", None), ("bare.png", None)]


def test_a_video_with_brackets_in_its_name(tmp_path):
    pytest.importorskip("av")
    from kdsr_arch.data.prepare.demo_data import video_files

    source = video_files()["carphone_pristine"]
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / f"holiday (1){source.suffix}").symlink_to(source)
    prepare_video_clips(tmp_path / "videos", tmp_path / "v.lmdb", ranges={"holiday (1)": (0, 2)})
    assert LmdbSource(tmp_path / "v.lmdb").clips().keys() == {"holiday (1)"}


@pytest.mark.parametrize("name", ["new\nline", "re\rturn", NOT_UTF8])
def test_a_name_that_no_list_can_hold_is_refused_or_left_out(tmp_path, name):
    with refuses(repr(name), "rename"):
        stored_key(name)
    write_frame(tmp_path / "in" / f"{name}.png")
    write_frame(tmp_path / "in" / "good.png")
    with refuses(repr(name), "--skip-bad"):
        convert_images([tmp_path / "in"], tmp_path / "out.lmdb")
    assert not (tmp_path / "out.lmdb").exists()
    convert_images([tmp_path / "in"], tmp_path / "skipped.lmdb", making=Making(skip_bad=True))
    assert LmdbSource(tmp_path / "skipped.lmdb").keys() == ["good"]
    skipped = (tmp_path / "skipped.lmdb" / SKIPPED_FILE).read_text(encoding="utf-8")
    assert len(skipped.splitlines()) == 1 and repr(name)[1:-1] in skipped


def test_logs_and_tables_take_a_name_that_is_no_text(tmp_path, capsys):
    log = TextLog()
    with log:
        log.open(tmp_path / "run.log")
        get_logger().warning(f"{NOT_UTF8}.png is odd")
    assert "\\udcc4\\udce3\\udcba\\udcc3.png is odd" in (tmp_path / "run.log").read_text(encoding="utf-8")
    assert "Logging error" not in capsys.readouterr().err
    write_frame(tmp_path / "gt" / f"{NOT_UTF8}.png")
    options = tmp_path / "t.yml"
    options.write_text(
        f"name: t\nmodel_type: SRModel\nscale: 2\nnum_gpu: 0\nnetwork_g: {{type: Bicubic, scale: 2}}\n"
        f"datasets: {{test_1: {{name: odd, type: ImagePairDataset, dataroot_gt: {tmp_path / 'gt'}}}}}\n"
        "val: {save_img: true, metrics: {psnr: {type: calculate_psnr, crop_border: 2}}}\n"
    )
    assert main(["test", "-opt", str(options), "--root", str(tmp_path)]) == 0
    results = tmp_path / "results" / "t"
    rows = list(csv.DictReader((results / "results.csv").open(encoding="utf-8")))
    assert rows[0]["item"] == "\\udcc4\\udce3\\udcba\\udcc3" and float(rows[0]["psnr"]) > 0
    assert json.loads((results / "results.json").read_text())["results"][0]["per_item"][0]["name"] == rows[0]["item"]
    assert (results / "visualization" / "odd" / f"{NOT_UTF8}.png").is_file()
