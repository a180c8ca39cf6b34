"""The hint at a conversion: once, with numbers, and only where it would bring something."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kdsr_arch.data import hints, notices
from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.data.image_dataset import ImagePairDataset
from kdsr_arch.data.prepare.frame_writer import Making
from kdsr_arch.data.prepare.plans import convert_images
from kdsr_arch.data.sources import FolderSource
from kdsr_arch.data.store.codec import codec_named


@pytest.fixture
def large(tmp_path, save, frames, monkeypatch):
    monkeypatch.setattr(notices, "_said", set())
    save(tmp_path / "in" / "a.png", cv2.resize(frames[0], (1280, 720)))
    save(tmp_path / "in" / "b.png", cv2.resize(frames[1], (1280, 720)))
    return tmp_path / "in"


def options(root, **changes):
    return {"dataroot_gt": str(root), "scale": 4, "gt_size": 64, "phase": "train", "cache": False, **changes}


def said(caplog) -> list[str]:
    return [record.message for record in caplog.records if "kdsr lmdb" in record.message]


def test_said_once_with_the_command(large, caplog, monkeypatch):
    monkeypatch.setattr(hints, "_seconds", lambda *_: (0.03, 0.001))
    for _ in range(2):
        ImagePairDataset(options(large))
    assert said(caplog) == [
        f"{large}: each crop of 64 pixels decodes a whole frame (30 ms); from tiles it takes 1.0 ms. "
        f"To convert once: kdsr lmdb create {large} NAME.lmdb"
    ]


@pytest.mark.parametrize("changes", [{"cache": True}, {"phase": "test"}, {"cache": "auto"}])
def test_not_said_where_nothing_is_decoded_twice(large, caplog, monkeypatch, changes):
    monkeypatch.setattr(hints, "_seconds", lambda *_: (0.03, 0.001))
    ImagePairDataset(options(large, **changes))
    assert said(caplog) == []


def test_not_said_of_tiles_nor_where_it_brings_little(large, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(hints, "_seconds", lambda *_: (0.0011, 0.001))
    ImagePairDataset(options(large))
    monkeypatch.setattr(hints, "_seconds", lambda *_: (0.03, 0.001))
    convert_images(large, tmp_path / "a.lmdb", making=Making(codec_named("webp")))
    ImagePairDataset(options(tmp_path / "a.lmdb"))
    assert said(caplog) == []
    convert_images(large, tmp_path / "b.lmdb")
    ImagePairDataset(options(tmp_path / "b.lmdb"))
    assert len(said(caplog)) == 1 and "kdsr lmdb convert" in said(caplog)[0]


def test_the_measurement_is_of_the_right_things(large):
    source = FolderSource(large)
    assert all(seconds > 0 for seconds in hints._seconds(source.encoded("a"), "a", 64))


def test_gaps_in_a_clip_are_said(tmp_path, save, frames, caplog, monkeypatch):
    monkeypatch.setattr(notices, "_said", set())
    for number in (0, 1, 3):
        save(tmp_path / "a" / f"{number:08d}.png", np.ascontiguousarray(frames[number]))
    ClipDataset(options(tmp_path, clip_length=1))
    assert "has no frames between 'a/00000001' and 'a/00000003'" in caplog.text
