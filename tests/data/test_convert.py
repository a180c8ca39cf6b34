"""Conversions: what the stores hold, key by key."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from kdsr_arch.data.augment import Crop
from kdsr_arch.data.clip_dataset import listed_clips
from kdsr_arch.data.pairs import DegradedSource
from kdsr_arch.data.prepare import demo_data as demo
from kdsr_arch.data.prepare.decode_video import crop_to_multiple, decode_video, halve, take
from kdsr_arch.data.prepare.frame_writer import Making
from kdsr_arch.data.prepare.plans import (
    ImageParts,
    convert_clips,
    convert_images,
    equal_parts,
    prepare_reds,
    prepare_video_clips,
    prepare_vimeo,
)
from kdsr_arch.data.sources import FolderSource, LmdbSource
from kdsr_arch.errors import UserError
from tests.helpers.messages import refuses

av = pytest.importorskip("av", reason="needs the extra: pip install av")


def write_video(path: Path, frames: list[np.ndarray]) -> Path:
    """Lossless, so that frames can be compared."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    return path


def assert_equal_stores(store: Path, expected: dict[str, np.ndarray]) -> None:
    source = LmdbSource(store)
    assert source.keys() == list(expected)
    for key, frame in expected.items():
        np.testing.assert_array_equal(source.get(key), frame, err_msg=key)


def test_videos_and_folders_become_clips(frames, tmp_path, save):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "film.mkv", frames[:5])
    for number, frame in enumerate(frames[5:8]):
        save(tmp_path / "in" / "shots" / f"im{number + 9}.png", frame)
    (tmp_path / "in" / "readme.txt").write_text("not a clip")
    shapes = prepare_video_clips(tmp_path / "in", tmp_path / "a.lmdb", multiple=16, ranges={"film": (1, -1)})
    assert shapes == {"film": (3, 64, 80), "shots": (3, 64, 80)}
    expected = {f"film/{i:08d}": frames[i + 1] for i in range(3)} | {f"shots/{i:08d}": frames[i + 5] for i in range(3)}
    assert_equal_stores(tmp_path / "a.lmdb", {k: crop_to_multiple(halve(f), 16) for k, f in expected.items()})
    with refuses(tmp_path / "in", "'movie'", "film", "shots"):
        prepare_video_clips(tmp_path / "in", tmp_path / "b.lmdb", exclude=["movie"])
    with refuses("'film'"):
        prepare_video_clips(tmp_path / "in", tmp_path / "b.lmdb", ranges={"film": (9, None)})
    for multiple, named in ((0, "--multiple 0"), (-4, "--multiple -4"), (100, "film.mkv")):
        with refuses(named, multiple):
            prepare_video_clips(tmp_path / "in", tmp_path / "b.lmdb", multiple=multiple)
    assert not (tmp_path / "b.lmdb").exists()
    with refuses(tmp_path / "a.lmdb", "kdsr lmdb convert"):
        convert_images([tmp_path / "a.lmdb"], tmp_path / "b.lmdb")


def test_a_video_that_breaks_off(frames, tmp_path, caplog, monkeypatch):
    from kdsr_arch import errors
    from kdsr_arch.data.prepare.decode_video import StreamSource
    from kdsr_arch.data.prepare.frame_writer import Making, write_clips

    monkeypatch.setattr(errors, "_said", set())

    def torn():
        yield from frames[:3]
        raise UserError("film.mp4: cannot be decoded as a video (it ends too early)")

    with refuses("film.mp4", "3 frames", "--skip-bad"):
        write_clips([("film", StreamSource(torn, "film.mp4"))], tmp_path / "a.lmdb")
    shapes = write_clips([("film", StreamSource(torn, "film.mp4"))], tmp_path / "a.lmdb", Making(skip_bad=True))
    assert shapes == {"film": (3, 144, 176)}
    assert "its first 3 frames are taken" in caplog.text
    assert_equal_stores(tmp_path / "a.lmdb", {f"film/{i:08d}": frames[i] for i in range(3)})


def test_one_video_is_one_clip(frames, tmp_path):
    write_video(tmp_path / "film.mkv", frames[:4])
    shapes = prepare_video_clips(tmp_path / "film.mkv", tmp_path / "a.lmdb", halved=False, multiple=16)
    assert shapes == {"film": (4, 144, 176)}


def test_a_key_that_comes_twice_names_its_file(frames, tmp_path, save):
    save(tmp_path / "in" / "a.png", frames[0])
    save(tmp_path / "in" / "ax4.png", frames[1])
    with refuses("in/ax4.png", "'a'"):
        convert_images([tmp_path / "in"], tmp_path / "a.lmdb", parts=ImageParts(strip="x4"))


def test_a_run_stopped_before_its_list_writes_the_list(clip_root, tmp_path):
    convert_clips(clip_root, tmp_path / "a.lmdb")
    text = (tmp_path / "a.txt").read_text()
    (tmp_path / "a.txt").unlink()
    convert_clips(clip_root, tmp_path / "a.lmdb")
    assert (tmp_path / "a.txt").read_text() == text


def test_a_store_of_other_clips_is_not_taken_for_a_stopped_run(clip_root, frames, tmp_path, save):
    convert_clips(clip_root, tmp_path / "a.lmdb")
    (tmp_path / "a.txt").unlink()
    save(tmp_path / "other" / "x" / "0.png", frames[0])
    same_keys = shutil.copytree(clip_root, tmp_path / "same")
    save(same_keys / "000" / "00000000.png", frames[9][:64, :80])
    for folder in (tmp_path / "other", same_keys):
        with refuses(tmp_path / "a.lmdb", "exists already"):
            convert_clips(folder, tmp_path / "a.lmdb")
    with refuses(tmp_path / "a.lmdb", "exists already"):  # it has no LR
        convert_clips(clip_root, tmp_path / "a.lmdb", making=Making(low={"scale": 2, "kind": "BI"}))
    assert not (tmp_path / "a.txt").exists()


def test_a_stopped_run_that_left_frames_out_writes_the_list(frames, tmp_path, save):
    save(tmp_path / "in" / "a" / "0.png", frames[0])
    (tmp_path / "in" / "a" / "1.png").write_bytes(b"torn")
    for _ in range(2):
        convert_clips(tmp_path / "in", tmp_path / "a.lmdb", making=Making(skip_bad=True))
        assert (tmp_path / "a.txt").read_text() == "a 1 (144,176,3)\n"
        (tmp_path / "a.txt").unlink()


def test_a_text_of_the_users_is_not_replaced_by_a_clip_list(clip_root, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with refuses(tmp_path / "notes.txt", "notes.lmdb"):
        convert_clips(clip_root, tmp_path / "notes.lmdb")
    assert (tmp_path / "notes.txt").read_text() == "mine" and not (tmp_path / "notes.lmdb").exists()


def test_frames_of_no_clip_are_no_clips(frames, tmp_path, save):
    save(tmp_path / "in" / "0.png", frames[0])
    with refuses(tmp_path / "in" / "0.png", "--kind images"):
        convert_clips(tmp_path / "in", tmp_path / "a.lmdb")
    assert not (tmp_path / "a.lmdb").exists()


def test_halving_takes_the_mean_and_cropping_the_center():
    frame = np.zeros((5, 6, 3), np.uint8)
    frame[0:2, 0:2, 0] = [[10, 20], [30, 41]]
    assert halve(frame).shape == (2, 3, 3) and halve(frame)[0, 0].tolist() == [25, 0, 0]
    ramp = np.arange(7, dtype=np.uint8)[:, None, None].repeat(9, 1)
    assert crop_to_multiple(ramp, 4)[:, 0, 0].tolist() == [1, 2, 3, 4] and crop_to_multiple(ramp, 4).shape[1] == 8


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all" * 10)
    with refuses(tmp_path / "a.mp4", "video"):
        list(decode_video(tmp_path / "a.mp4"))
    with refuses(tmp_path / "absent.mp4", "No such file"):
        list(decode_video(tmp_path / "absent.mp4"))


def test_clip_folders_keep_their_keys(clip_root, tmp_path):
    convert_clips(clip_root, tmp_path / "gt.lmdb")
    source = FolderSource(clip_root)
    assert_equal_stores(tmp_path / "gt.lmdb", {key: source.get(key) for key in source})
    assert (tmp_path / "gt.txt").read_text() == "000 8 (64,80,3)\n001 5 (48,64,3)\n"
    convert_clips(clip_root, tmp_path / "lq.lmdb", only=["001"], degrade={"scale": 2, "kind": "BD"})
    low = DegradedSource(source, 2, "BD")
    assert_equal_stores(tmp_path / "lq.lmdb", {key: low.get(key) for key in source if key.startswith("001")})


def test_images_and_sub_images(frames, tmp_path, save):
    save(tmp_path / "in" / "0001x4.png", frames[0][:50, :70])
    convert_images([tmp_path / "in"], tmp_path / "whole.lmdb", parts=ImageParts(strip="x4"))
    assert_equal_stores(tmp_path / "whole.lmdb", {"0001": frames[0][:50, :70]})
    convert_images([tmp_path / "in"], tmp_path / "sub.lmdb", parts=ImageParts(strip="x4", patch=32, step=24))
    corners = [(0, 0), (0, 24), (0, 38), (18, 0), (18, 24), (18, 38)]
    parts = {f"0001_s{n:03d}": frames[0][t : t + 32, x : x + 32] for n, (t, x) in enumerate(corners, 1)}
    assert_equal_stores(tmp_path / "sub.lmdb", parts)
    with refuses(tmp_path / "in", "50x70", "64x64"):
        convert_images([tmp_path / "in"], tmp_path / "large.lmdb", parts=ImageParts(patch=64))


@pytest.mark.parametrize("parts", [ImageParts(), ImageParts(patch=32), ImageParts(min_side=8)], ids=str)
def test_images_that_cannot_be_used_are_left_out(frames, tmp_path, save, parts):
    save(tmp_path / "in" / "sound.png", frames[0][:32, :32])
    (tmp_path / "in" / "torn.png").write_bytes(b"")
    save(tmp_path / "in" / "tiny.png", frames[0][:4, :4])
    convert_images([tmp_path / "in"], tmp_path / "a.lmdb", parts=parts, making=Making(skip_bad=True))
    kept = {"sound_s001"} if parts.patch else {"sound"} if parts.min_side else {"sound", "tiny"}
    assert set(LmdbSource(tmp_path / "a.lmdb")) == kept
    skipped = (tmp_path / "a.lmdb" / "skipped.txt").read_text()
    assert str(tmp_path / "in" / "torn.png") in skipped
    assert ("tiny" in skipped) == bool(parts.patch)


def test_equal_parts_cover_an_image_once():
    assert equal_parts((321, 481), 512) == [Crop(0, 0, 320, 480)]  # too small to be cut: sides become multiples of 8
    assert equal_parts((576, 583), 512) == [Crop(0, 0, 576, 576)]  # 64 pixels too long are not worth a cut
    assert equal_parts((5, 9), 512) == [Crop(0, 0, 5, 8)]
    corners = [(0, 0), (0, 512), (0, 1024), (0, 1536), (448, 0), (448, 512), (448, 1024), (448, 1536)]
    corners += [(896, 0), (896, 512), (896, 1024), (896, 1536)]
    assert equal_parts((1365, 2048), 512) == [Crop(top, left, 448, 512) for top, left in corners]
    for side, size in itertools.product((64, 100, 512), ((200, 333), (1024, 640), (47, 2000))):
        parts = equal_parts(size, side)
        covered = np.zeros(size, int)
        for part in parts:
            part.of(covered)[...] += 1
        lost = [n - max(p.top + p.height if n == size[0] else p.left + p.width for p in parts) for n in size]
        assert covered.max() == 1 and len({(p.height, p.width) for p in parts}) == 1
        assert max(parts[0].height, parts[0].width) <= side + 64 and len(parts) * 8 > max(lost)


def photos(frames, root, save):
    """Write two folders of images, whose names are taken twice; the first frame's parts at 32 are 72x88."""
    for number in range(6):
        save(root / "a" / f"{number}.png", frames[number])
    save(root / "b" / "0.png", frames[6][:64, :100])
    save(root / "b" / "1.png", frames[7][:40, :100])
    return [root / "a", root / "b"]


def test_a_training_set_of_several_folders(frames, tmp_path, save):
    folders = photos(frames, tmp_path, save)
    parts = ImageParts(max_side=32, min_side=64)
    held = (folders[0], tmp_path / "val.lmdb")
    convert_images(folders, tmp_path / "train.lmdb", parts=parts, hold_out=held)
    corners = [(0, 0), (0, 88), (72, 0), (72, 88)]
    expected = {
        f"a_{n}_s{i:03d}": frames[n][t : t + 72, x : x + 88] for n in range(1, 5) for i, (t, x) in enumerate(corners, 1)
    }
    expected["b_0_s001"] = frames[6][:64, :96]
    assert_equal_stores(tmp_path / "train.lmdb", expected)
    larger = {
        f"a_{n}_s{i:03d}": frames[n][t : t + 72, x : x + 88] for n in (0, 5) for i, (t, x) in enumerate(corners, 1)
    }
    assert_equal_stores(tmp_path / "val.lmdb", larger)


def test_what_was_held_out_is_never_trained_on(frames, tmp_path, save):
    folders = photos(frames, tmp_path, save)
    convert_images(folders, tmp_path / "train.lmdb", hold_out=(folders[0], tmp_path / "val.lmdb"))
    shutil.rmtree(tmp_path / "train.lmdb")
    with refuses(tmp_path / "val.lmdb", "held out"):  # of another folder
        convert_images(folders, tmp_path / "train.lmdb", hold_out=(folders[1], tmp_path / "val.lmdb"))
    with refuses(tmp_path / "c", "none of the folders"):
        convert_images(folders, tmp_path / "train.lmdb", hold_out=(tmp_path / "c", tmp_path / "other.lmdb"))
    (tmp_path / "here").symlink_to(tmp_path)
    with refuses(tmp_path / "train.lmdb", "held out"):
        convert_images(folders, tmp_path / "here/train.lmdb", hold_out=(folders[0], tmp_path / "train.lmdb"))
    assert not (tmp_path / "train.lmdb").exists() and not (tmp_path / "other.lmdb").exists()
    before = (tmp_path / "val.lmdb" / "data.mdb").read_bytes()
    convert_images(
        folders, tmp_path / "train.lmdb", hold_out=(folders[0], tmp_path / "val.lmdb")
    )  # stopped between both
    assert LmdbSource(tmp_path / "val.lmdb").keys() == ["a_0", "a_5"]
    assert LmdbSource(tmp_path / "train.lmdb").keys() == ["a_1", "a_2", "a_3", "a_4", "b_0", "b_1"]
    assert (tmp_path / "val.lmdb" / "data.mdb").read_bytes() == before


def test_reds_is_regrouped(frames, tmp_path, save):
    for split, clips in (("train", ("000", "001")), ("val", ("000", "029"))):
        for clip in clips:
            for index in range(2):
                frame = frames[int(clip) % 7 + index + (3 if split == "val" else 0)]
                save(tmp_path / "in" / f"{split}_sharp" / clip / f"{index:08d}.png", frame)
                small = tmp_path / "in" / split / f"{split}_sharp_bicubic" / "X4" / clip
                save(small / f"{index:08d}.png", frame[::4, ::4])
    prepare_reds(tmp_path / "in", tmp_path / "out")
    source = LmdbSource(tmp_path / "out" / "train_sharp_with_val.lmdb")
    assert list(source.clips()) == ["000", "001", "240", "269"]
    np.testing.assert_array_equal(source.get("269/00000001"), frames[29 % 7 + 1 + 3])
    low = LmdbSource(tmp_path / "out" / "train_sharp_bicubic_with_val.lmdb")
    np.testing.assert_array_equal(low.get("240/00000000"), frames[3][::4, ::4])
    assert listed_clips(tmp_path / "out" / "meta_info_REDS4.txt") == {"000": 2}
    assert list(listed_clips(tmp_path / "out" / "meta_info_REDS_train.txt")) == ["001", "240", "269"]
    with refuses(tmp_path, "train_sharp", "train_sharp.zip"):
        prepare_reds(tmp_path, tmp_path / "other")
    save(tmp_path / "in" / "val_sharp" / "extra" / "00000000.png", frames[0])
    with refuses("val_sharp", "'extra'"):
        prepare_reds(tmp_path / "in", tmp_path / "other")


def test_vimeo_septuplets(frames, tmp_path, save):
    root = tmp_path / "in"
    for clip in ("00001/0001", "00001/0002", "00002/0001"):
        for number in range(1, 8):
            save(root / "sequences" / clip / f"im{number}.png", frames[number][:64, :64])
    (root / "sep_trainlist.txt").write_text("00001/0001\n00002/0001\n")
    prepare_vimeo(root, tmp_path, split="train")
    source = LmdbSource(tmp_path / "vimeo90k_train_GT.lmdb")
    assert {clip: len(keys) for clip, keys in source.clips().items()} == {"00001/0001": 7, "00002/0001": 7}
    np.testing.assert_array_equal(source.get("00002/0001/im4"), frames[4][:64, :64])
    assert (tmp_path / "meta_info_Vimeo90K_train_GT.txt").read_text().startswith("00001/0001 7 (64,64,3)\n")
    prepare_vimeo(root, tmp_path, degrade={"scale": 4})
    assert LmdbSource(tmp_path / "vimeo90k_train_LR.lmdb").size("00001/0001/im1") == (16, 16)
    (root / "sequences" / "00002" / "0001" / "im6.png").unlink()
    with refuses("00002/0001", "im6"):
        prepare_vimeo(root, tmp_path / "again")


def test_a_bad_file_stops_the_conversion_by_name(clip_root, tmp_path, save, frames):
    save(tmp_path / "in" / "a" / "1.png", frames[0])
    save(tmp_path / "in" / "a" / "2.png", frames[0][:9])
    with refuses("in/a/2.png", "9x176", "144x176"):
        convert_clips(tmp_path / "in", tmp_path / "out.lmdb")
    (tmp_path / "in" / "a" / "2.png").write_bytes(b"")
    with refuses("in/a/2.png", "decode"):
        convert_clips(tmp_path / "in", tmp_path / "out.lmdb")
    assert not (tmp_path / "out.lmdb").exists()
    save(tmp_path / "in" / "a" / "2.png", frames[1])
    assert convert_clips(tmp_path / "in", tmp_path / "out.lmdb") == {"a": (2, 144, 176)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.lmdb", "out.txt"]


def test_take_is_a_slice():
    for span in ((None, None), (2, None), (None, 3), (1, 4), (-3, None), (None, -2), (8, None)):
        assert list(take(iter(range(6)), span)) == list(range(6))[slice(*span)]


@pytest.fixture(scope="module")
def demo_root(tmp_path_factory):
    try:
        demo.video_files()
    except UserError as error:
        pytest.skip(str(error))
    return demo.make_demo_clips(tmp_path_factory.mktemp("demo") / "demo")


def test_the_demo_holds_out_the_ends(demo_root):
    train, test = (LmdbSource(demo_root / f"{part}_GT.lmdb") for part in ("train", "test"))
    assert list(train.clips()) == list(test.clips()) == sorted(demo.CLIPS)
    for name in ("bikes", "carphone_pristine"):
        video = list(decode_video(demo.video_files()[name]))
        assert len(test.clips()[name]) == demo.TEST_FRAMES
        assert len(train.clips()[name]) == len(video) - demo.TEST_FRAMES - demo.GAP
        first_test = crop_to_multiple(halve(video[-demo.TEST_FRAMES]), 8)
        np.testing.assert_array_equal(test.get(f"{name}/00000000"), first_test)
    assert listed_clips(demo_root / "meta_info_test.txt") == dict.fromkeys(demo.CLIPS, demo.TEST_FRAMES)


def test_the_demo_is_made_once_and_again_when_torn(tmp_path, monkeypatch, demo_root):
    monkeypatch.setattr(demo, "CLIPS", ("carphone_pristine",))
    demo_root = demo.make_demo_clips(tmp_path / "small")
    before = (demo_root / "test_GT.lmdb" / "data.mdb").stat().st_mtime_ns
    assert demo.make_demo_clips(demo_root) == demo_root
    assert (demo_root / "test_GT.lmdb" / "data.mdb").stat().st_mtime_ns == before
    (demo_root / "READY").unlink()
    assert not demo.has_demo_clips(demo_root)
    demo.make_demo_clips(demo_root)
    assert demo.has_demo_clips(demo_root) and (demo_root / "test_GT.lmdb" / "data.mdb").stat().st_mtime_ns > before
