"""Clip samples: what they hold, where they come from, and what is refused."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch

from kdsr_arch import errors
from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.data.pairs import DegradedSource
from kdsr_arch.data.prepare.frame_writer import Entry, write_frames
from kdsr_arch.data.sources import FolderSource, open_source
from tests.helpers.messages import refuses


@pytest.fixture
def make(clip_root):
    """``make(key=value, ...)``: a data set of the two clips with some options changed; None removes one."""

    def build(**changes) -> ClipDataset:
        opt = {
            "name": "clips", "phase": "train", "dataroot_gt": str(clip_root), "scale": 4,
            "gt_size": 32, "clip_length": 2, "num_frame": 3, "use_hflip": True, "use_rot": True,
        }  # fmt: skip
        opt.update(changes)
        return ClipDataset(**{key: value for key, value in opt.items() if value is not None})

    return build


def samples(dataset, count=40):
    return [dataset.sample(i % len(dataset), np.random.default_rng(i)) for i in range(count)]


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]) if isinstance(value, torch.Tensor) else value == right[key], key


@pytest.fixture(scope="module")
def stored_lq(clip_root, tmp_path_factory):
    """LR of the two clips, as an LMDB."""
    out = tmp_path_factory.mktemp("lq") / "lq.lmdb"
    source = DegradedSource(FolderSource(clip_root), 4)
    write_frames((Entry(source, key, key) for key in source), out)
    return out


def test_shapes_and_range(make):
    dataset = make()
    assert len(dataset) == 7 + 4  # starts that leave two frames, in clips of eight and five
    for item in samples(dataset):
        assert item["lq"].shape == (4, 3, 8, 8) and item["gt"].shape == (2, 3, 32, 32)
        assert item["lq"].dtype == item["gt"].dtype == torch.float32
        assert item["gt"].min() >= 0 and item["gt"].max() <= 1


@pytest.mark.parametrize("degradation", ["BI", "BD"])
def test_lr_belongs_to_its_hr(make, clip_root, degradation):
    """Found again without the data set's own crop: some window, flip and direction of the whole LR frames fits."""
    dataset = make(degradation=degradation, use_hflip=False, use_rot=False)
    source = FolderSource(clip_root)
    lr = DegradedSource(source, 4, degradation)
    for item in samples(dataset, 10):
        gt = (item["gt"].numpy() * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
        lq = (item["lq"].numpy() * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
        clip, start = item["key"].split("/")
        keys = source.clips()[clip]
        whole = source.get(item["key"])
        places = [
            (t, left)
            for t in range(0, whole.shape[0] - 31, 4)
            for left in range(0, whole.shape[1] - 31, 4)
            if np.array_equal(whole[t : t + 32, left : left + 32], gt[0])
        ]
        assert places
        top, left = (v // 4 for v in places[0])
        for position, frame in zip(range(int(start) - 1, int(start) + 3), lq, strict=True):
            key = keys[min(max(position, 0), len(keys) - 1)]
            np.testing.assert_array_equal(frame, lr.get(key)[top : top + 8, left : left + 8])


def test_lmdb_folder_cache_and_stored_lr_give_identical_tensors(make, clip_lmdb, stored_lq):
    expected = samples(make(cache=False))
    for changes in (
        {"dataroot_gt": str(clip_lmdb), "cache": False},
        {"dataroot_gt": str(clip_lmdb), "cache": True},
        {"cache": "auto"},
        {"cache": True, "cache_gb": 5e-5},
        {"dataroot_lq": str(stored_lq)},
        {"dataroot_lq": str(stored_lq), "dataroot_gt": str(clip_lmdb), "cache": False, "io_backend": {"type": "lmdb"}},
    ):
        dataset = make(**changes)
        for _ in range(2):  # the second time from the cache
            for left, right in zip(samples(dataset), expected, strict=True):
                assert_same(left, right)


@pytest.mark.parametrize("codec", ["webp", "raw"])
def test_lr_kept_beside_its_hr_is_read_with_it(make, clip_root, tmp_path, codec, monkeypatch):
    from kdsr_arch.data.prepare.frame_writer import Making
    from kdsr_arch.data.prepare.plans import convert_clips
    from kdsr_arch.data.store import lmdb_store
    from kdsr_arch.data.store.codec import codec_named

    low = {"scale": 4, "kind": "BI", "border": "symmetric"}
    convert_clips(clip_root, tmp_path / "both.lmdb", making=Making(codec_named(codec, 16), low))
    dataset = make(dataroot_gt=str(tmp_path / "both.lmdb"), cache=False)
    assert not isinstance(dataset.pairs.lq, DegradedSource)
    begun = []
    begin = lmdb_store._begin
    monkeypatch.setattr(lmdb_store, "_begin", lambda root: begun.append(root) or begin(root))
    drawn = samples(dataset)
    assert len(begun) == len(drawn)  # one transaction a sample
    for left, right in zip(drawn, samples(make(cache=False)), strict=True):
        assert_same(left, right)
    other = make(dataroot_gt=str(tmp_path / "both.lmdb"), cache=False, degradation="BD")
    assert isinstance(other.pairs.lq, DegradedSource)


def test_flips_and_reversal_are_shared_by_all_frames(make, clip_root):
    plain = make(use_hflip=False, use_rot=False)
    turned = make(random_reverse=True)
    seen = set()
    for i in range(60):
        item = turned.sample(2, np.random.default_rng(i))
        seen.add(item["key"])
        mean_lq, mean_gt = item["lq"].mean((2, 3)), item["gt"].mean((2, 3))
        # The LR of each ground-truth frame has nearly its mean, whichever way the sample is turned.
        torch.testing.assert_close(mean_lq[1:-1], mean_gt, atol=0.02, rtol=0)
    assert seen == {"000/00000002", "000/00000003"}
    assert {plain.sample(2, np.random.default_rng(i))["key"] for i in range(20)} == {"000/00000002"}


def test_intervals_and_the_ends_of_a_clip(make):
    dataset = make(interval_list=[1, 3], clip_length=2, num_frame=3)
    rng = np.random.default_rng(0)
    clip = dataset.selected[0]
    seen = {tuple(map(tuple, dataset._frames_of(clip, 0, rng)[:2])) for _ in range(50)}
    assert seen == {((0, 1), (0, 0, 1, 2)), ((0, 3), (0, 0, 3, 6))}
    seen = {tuple(map(tuple, dataset._frames_of(clip, 6, rng)[:2])) for _ in range(50)}
    assert seen == {((6, 7), (5, 6, 7, 7))}


def test_selection(make, tmp_path):
    (tmp_path / "list.txt").write_text("001 4 (48,64,3)\n\n000\n")
    names = lambda **changes: [(c.name, len(c)) for c in make(**changes).selected]  # noqa: E731
    assert names() == [("000", 8), ("001", 5)]
    assert names(clips=["001"]) == [("001", 5)]
    assert names(exclude=["001"]) == [("000", 8)]
    assert names(frames=[1, -1]) == [("000", 6), ("001", 3)]
    assert names(frames=[-3, None]) == [("000", 3), ("001", 3)]
    assert names(meta_info_file=str(tmp_path / "list.txt")) == [("001", 4), ("000", 8)]
    assert make(frames=[-3, None]).selected[0].lq[0] == "000/00000005"


def test_whole_clips_for_testing(make, stored_lq, clip_root):
    dataset = make(phase="val", dataroot_lq=str(stored_lq))
    assert len(dataset) == 2
    item = dataset[1]
    assert item["lq"].shape == (5, 3, 12, 16) and item["gt"].shape == (5, 3, 48, 64)
    assert item["name"] == "001" and item["frames"] == [f"{i:08d}" for i in range(5)]
    assert item["gt_index"] == [0, 1, 2, 3, 4]
    assert_same(make(phase="test")[1], item)
    frame = torch.from_numpy(FolderSource(clip_root).get("001/00000003").copy()).permute(2, 0, 1) / 255
    assert torch.equal(item["gt"][3], frame)
    blind = make(phase="test", dataroot_lq=str(stored_lq), dataroot_gt=None)[1]
    assert "gt" not in blind and torch.equal(blind["lq"], item["lq"])


def test_sides_that_the_scale_does_not_divide_are_cut(make, caplog, monkeypatch):
    monkeypatch.setattr(errors, "_said", set())
    item = make(phase="test", scale=3)[0]
    assert item["lq"].shape == (8, 3, 21, 26) and item["gt"].shape == (8, 3, 63, 78)
    assert len([r for r in caplog.records if "cut at the right and bottom" in r.message]) == 1


def test_a_folder_of_frames_is_one_clip(make, clip_root):
    dataset = make(dataroot_gt=str(clip_root / "000"), phase="test")
    assert [clip.name for clip in dataset.selected] == ["000"] and dataset[0]["gt"].shape == (8, 3, 64, 80)


def test_luma(make):
    item = make(color="y").sample(0, np.random.default_rng(0))
    assert item["lq"].shape == (4, 1, 8, 8) and item["gt"].shape == (2, 1, 32, 32)


def test_vimeo_with_center_ground_truth_only(frames, tmp_path, save):
    """BasicSR's store of Vimeo-90K keeps im4 alone as HR."""
    for number in range(1, 8):
        frame = frames[number][:64, :64]
        save(tmp_path / "lq" / "00001" / "0001" / f"im{number}.png", frame[::4, ::4])
        if number == 4:
            save(tmp_path / "gt" / "00001" / "0001" / "im4.png", frame)
    (tmp_path / "list.txt").write_text("00001/0001 7 (256,448,3)\n")
    opt = {
        "dataroot_gt": tmp_path / "gt", "dataroot_lq": tmp_path / "lq", "meta_info_file": tmp_path / "list.txt",
        "scale": 4, "gt_size": 32, "num_frame": 7,
    }  # fmt: skip
    dataset = ClipDataset(**opt, phase="train")
    assert len(dataset) == 1
    item = dataset.sample(0, np.random.default_rng(0))
    assert item["lq"].shape == (7, 3, 8, 8) and item["gt"].shape == (1, 3, 32, 32)
    assert item["key"] == "00001/0001/im4"
    assert ClipDataset(**opt, phase="test")[0]["gt_index"] == [3]


def test_gaps_in_a_clip_are_said(make, tmp_path, save, frames, caplog, monkeypatch):
    monkeypatch.setattr(errors, "_said", set())
    for number in (0, 1, 3):
        save(tmp_path / "a" / f"{number:08d}.png", np.ascontiguousarray(frames[number]))
    make(dataroot_gt=str(tmp_path), clip_length=1)
    assert "has no frames between 'a/00000001' and 'a/00000003'" in caplog.text


def test_two_frames_of_one_number_are_said(make, tmp_path, save, frames, caplog, monkeypatch):
    monkeypatch.setattr(errors, "_said", set())
    for name in ("1", "01", "2"):
        save(tmp_path / "a" / f"{name}.png", np.ascontiguousarray(frames[0]))
    make(dataroot_gt=str(tmp_path), clip_length=1)
    assert "of one number" in caplog.text and "'a/1'" in caplog.text and "no frames" not in caplog.text


def test_a_clip_named_twice_is_drawn_twice_from_a_folder_too(make, clip_lmdb):
    both = {"clips": ["001", "001"]}
    assert len(make(**both)) == len(make(**both, dataroot_gt=str(clip_lmdb))) == 2 * len(make(clips=["001"]))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"dataroot_gt": "/nowhere/at/all"}, ["/nowhere/at/all"]),
        ({"dataroot_gt": None}, ["clips", "dataroot_gt"]),
        ({"degradation": "none"}, ["degradation 'none'", "dataroot_lq"]),
        ({"degradation": "BJ"}, ["degradation 'BJ'", "'BI'", "'BD'"]),
        ({"gt_size": 30}, ["gt_size 30", "scale 4"]),
        ({"gt_size": 64}, ["'001'", "48x64", "gt_size 64"]),
        ({"num_frame": 7}, ["'001'", 5, 7, "num_frame"]),
        ({"clip_length": 6}, ["'001'", 5, 6, "clip_length"]),
        ({"clips": ["002"]}, ["002"]),
        ({"exclude": ["00"]}, ["'00'", "'001'", "'000'"]),
        ({"exclude": ["000", "001"]}, ["exclude"]),
        ({"frames": [20, 30]}, ["'000'", "frames"]),
        ({"meta_info_file": "/nowhere/list.txt"}, ["/nowhere/list.txt"]),
        ({"padding": "mirror"}, ["padding 'mirror'", "replicate"]),
        ({"interval_list": []}, ["interval_list", "empty"]),
        ({"clips": []}, ["clips", "empty"]),
    ],
)
def test_bad_options(make, changes, names):
    with refuses(*names):
        make(**changes)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("../secret 5 (1,1,3)\n", ["list.txt", "line 1", "'../secret'"]),
        ("000 many (1,1,3)\n", ["list.txt", "line 1", "clip frames (h,w,c)"]),
        ("001 9 (48,64,3)\n", ["'001'", "5 of the 9"]),
        ("001 0 (48,64,3)\n", ["list.txt", "line 1", "'001'", "no frames"]),
        ("\n", ["list.txt"]),
    ],
)
def test_bad_lists(make, tmp_path, text, names):
    (tmp_path / "list.txt").write_text(text)
    with refuses(*names):
        make(meta_info_file=str(tmp_path / "list.txt"))


@pytest.fixture
def copies(clip_root, stored_lq, tmp_path, save):
    """HR and LR as folders of their own, to be damaged."""
    hr = shutil.copytree(clip_root, tmp_path / "hr")
    source = open_source(stored_lq)
    for key in source:
        save(tmp_path / "lr" / f"{key}.png", source.get(key))
    return hr, tmp_path / "lr"


def test_pairs_that_do_not_pair(make, copies, save, frames):
    hr, lr = copies
    paired = {"dataroot_gt": str(hr), "dataroot_lq": str(lr)}
    make(**paired)
    save(lr / "000" / "00000003.png", frames[0][:15, :20])
    with refuses(lr / "000" / "00000003.png", "15x20", "16x20"):
        make(**paired)
    (lr / "000" / "00000003.png").unlink()
    with refuses(lr, hr / "000" / "00000003.png"):
        make(**paired)
    (hr / "000" / "00000003.png").unlink()
    (hr / "001" / "00000004.png").unlink()
    with refuses(hr, "'001/00000004'", lr / "001" / "00000004.png"):
        make(**paired)
    shutil.rmtree(hr / "001")
    with refuses(hr, lr, "'001'"):
        make(**paired)
    shutil.rmtree(lr / "000")
    with refuses(lr, hr / "000"):
        make(**paired)


def test_sizes_that_do_not_fit_the_scale(make, copies):
    hr, lr = copies
    with refuses(lr / "000" / "00000000.png", hr / "000" / "00000000.png", "16x20", "64x80", "scale 2"):
        make(dataroot_gt=str(hr), dataroot_lq=str(lr), scale=2)


def test_frames_of_different_sizes(make, copies, save, frames):
    hr, _ = copies
    save(hr / "001" / "00000002.png", frames[0][:48, :60])
    with refuses("hr/001/00000002.png", "12x15", "12x16"):
        make(dataroot_gt=str(hr))


@pytest.mark.parametrize("cache", [True, False])
def test_a_frame_that_does_not_decode_is_named(make, copies, cache):
    hr, _ = copies
    dataset = make(dataroot_gt=str(hr), cache=cache)
    os.truncate(hr / "001" / "00000002.png", 400)
    with refuses(hr / "001" / "00000002.png"):
        samples(dataset)
