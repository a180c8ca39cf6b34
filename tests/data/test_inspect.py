"""All data are looked at before training: what is at fault is found then, and left out where that is asked for."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from kdsr_arch.data import image_file, inspect_files, pair_dataset
from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.data.image_dataset import ImagePairDataset
from kdsr_arch.data.loader import open_dataset
from kdsr_arch.data.prepare.frame_writer import Making
from kdsr_arch.data.prepare.plans import ImageParts, convert_clips, convert_images
from kdsr_arch.data.sources import FolderSource
from kdsr_arch.metrics.measure import check_size
from tests.helpers.images import texture, write_textures
from tests.helpers.messages import refuses
from tests.helpers.options import dataset_options, evaluator, metric_options

COMMON = {"scale": 2, "gt_size": 32, "phase": "train", "name": "set"}


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch) -> Path:
    """What is remembered lies in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images(tmp_path) -> Path:
    return write_textures(tmp_path / "images", 6, 64, 80)


def write(path: Path, height: int, width: int) -> None:
    cv2.imwrite(str(path), texture(96, 96, np.random.default_rng(0))[:height, :width])


def flip(path: Path) -> None:
    """Damage a PNG in the middle of its pixels."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))


def damage(folder: Path) -> None:
    """One image too small, one no image, one with a damaged byte."""
    write(folder / "1.png", 30, 80)
    (folder / "3.png").write_text("a page of a web site")
    flip(folder / "4.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("lost", [1, 20, 0.5])
def test_a_file_cut_short_is_found_without_decoding_it(tmp_path, suffix, lost):
    write_textures(tmp_path, 3, 64, 80)
    file = tmp_path / f"a{suffix}"
    write(file, 64, 80)
    assert len(ImagePairDataset(dataroot_gt=tmp_path, **COMMON)) == 4
    data = file.read_bytes()
    file.write_bytes(data[: -lost if lost >= 1 else int(len(data) * lost)])
    with refuses(file, "truncated"):
        ImagePairDataset(dataroot_gt=tmp_path, **COMMON)


def test_the_last_image_is_looked_at_like_the_first(images, monkeypatch):
    monkeypatch.setattr(pair_dataset, "CHECKED_FIRST", 2)
    write(images / "5.png", 30, 80)
    with refuses(images / "5.png", "30x80", "gt_size 32"):
        ImagePairDataset(dataroot_gt=images, **COMMON)
    late = ImagePairDataset(dataroot_gt=images, verify="first", **COMMON)
    with refuses(images / "5.png"):
        late.sample(5, np.random.default_rng(0))
    with refuses("verify 'all'", "'headers'"):
        ImagePairDataset(dataroot_gt=images, verify="all", **COMMON)


def test_what_is_at_fault_is_left_out_and_listed(images, caplog):
    damage(images)
    with refuses(images / "1.png", "2 of 6"):
        ImagePairDataset(dataroot_gt=images, **COMMON)
    with refuses(images / "1.png", "3 of 6"):
        ImagePairDataset(dataroot_gt=images, verify="decode", **COMMON)
    with caplog.at_level(logging.WARNING, "kdsr"):
        dataset = ImagePairDataset(dataroot_gt=images, verify="decode", skip_bad=True, **COMMON)
    assert [gt for _, gt in dataset.entries] == ["0", "2", "5"]
    said = [record.message for record in caplog.records]
    assert "3 of 6" in said[0]
    assert [any(f"{number}.png" in line for line in said[1:]) for number in range(6)] == [
        False, True, False, True, True, False,
    ]  # fmt: skip
    for index in range(3):
        dataset.sample(index, np.random.default_rng(0))
    for name in ("0", "2", "5"):
        (images / f"{name}.png").write_bytes(b"")
    with refuses(images / "0.png", "6 of 6"):  # nothing is left
        ImagePairDataset(dataroot_gt=images, verify="decode", skip_bad=True, **COMMON)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_a_file_that_cannot_be_opened_is_not_called_damaged(images, tmp_path, monkeypatch, number):
    def refused(path: Path, *_):
        if Path(path).name == "3.png":
            raise OSError(number, os.strerror(number), str(path))
        return open(path, "rb")

    monkeypatch.setattr(image_file, "open", refused, raising=False)
    monkeypatch.setattr(Path, "read_bytes", lambda path: refused(path).read())
    for verify in ("headers", "decode"):
        with refuses(images / "3.png", os.strerror(number), without=["damaged"]):
            ImagePairDataset(dataroot_gt=images, verify=verify, **COMMON)
    for verify in ("headers", "decode", "first"):
        if number == errno.EMFILE:  # the image itself is sound
            with refuses(images / "3.png", "ulimit -n"):
                ImagePairDataset(dataroot_gt=images, verify=verify, skip_bad=True, **COMMON)
        else:
            assert len(ImagePairDataset(dataroot_gt=images, verify=verify, skip_bad=True, **COMMON).entries) == 5
    if number == errno.EMFILE:
        for name, parts in (("whole", ImageParts()), ("cut", ImageParts(patch=32))):
            with refuses(images / "3.png", "ulimit -n"):
                convert_images(
                    [images], tmp_path / f"{name}.lmdb", parts=parts, making=Making(skip_bad=True, processes=1)
                )


def test_pairs_clips_and_stores_too(tmp_path, caplog):
    for clip in ("a", "b", "c"):
        write_textures(tmp_path / "gt" / clip, 3, 64, 80)
        write_textures(tmp_path / "lq" / clip, 3, 32, 40)
    convert_clips(tmp_path / "gt", tmp_path / "gt.lmdb")
    flip(tmp_path / "gt" / "a" / "2.png")
    write(tmp_path / "lq" / "b" / "1.png", 32, 44)
    roots = {"dataroot_gt": tmp_path / "gt", "dataroot_lq": tmp_path / "lq"}
    dataset = ClipDataset(**roots, **COMMON, verify="decode", skip_bad=True)
    assert [clip.name for clip in dataset.selected] == ["c"] and len(dataset) == 3
    with refuses(tmp_path / "lq" / "b" / "1.png"):
        ClipDataset(**roots, **COMMON)
    data = (tmp_path / "gt.lmdb" / "data.mdb").read_bytes()
    place = data.index(b"IDAT") + 60
    (tmp_path / "gt.lmdb" / "data.mdb").write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    ClipDataset(dataroot_gt=tmp_path / "gt.lmdb", **COMMON)
    with refuses(tmp_path / "gt.lmdb"):
        ClipDataset(dataroot_gt=tmp_path / "gt.lmdb", **COMMON, verify="decode")


def test_files_that_have_not_changed_are_not_opened_again(images, memory, monkeypatch):
    looked: list[str] = []

    def look(path: Path) -> tuple[int, int]:
        looked.append(path.name)
        return FolderSource(images).size(path.stem)

    monkeypatch.setattr(inspect_files, "_WORTH_KEEPING", 3)
    files = {str(number): f"{number}.png" for number in range(6)}
    expected = dict.fromkeys(files, (64, 80))
    assert inspect_files.inspect_files(images, files, look) == expected and len(looked) == 6
    assert inspect_files.inspect_files(images, files, look) == expected and len(looked) == 6
    write(images / "2.png", 50, 60)
    (images / "3.png").touch()
    assert inspect_files.inspect_files(images, files, look) == expected | {"2": (50, 60)}
    assert sorted(looked[6:]) == ["2.png", "3.png"]
    assert inspect_files.inspect_files(images, files, look, deep=True)["0"] == (64, 80) and len(looked) == 14
    inspect_files.inspect_files(images, files, look, deep=True)
    inspect_files.inspect_files(images, files, look)
    assert len(looked) == 14
    memory = inspect_files.memory_file(images)
    assert memory is not None
    memory.write_text('{"0.png": [1, 2]}')  # no such file as it should be
    assert inspect_files.inspect_files(images, files, look) == expected | {"2": (50, 60)} and len(looked) == 20
    (images / "0.png").unlink()
    assert "0.png" in inspect_files.inspect_files(images, files, look)["0"]


def test_whole_numbers_of_unknown_white_are_found_by_the_header(tmp_path: Path):
    """Else training would stop where it first draws the file, whatever skip_bad says."""
    write_textures(tmp_path, 2, 64, 80)
    Image.fromarray(np.full((64, 80), 70_000, np.int32)).save(tmp_path / "a.tif")
    source = FolderSource(tmp_path)
    source.inspect(source.keys())
    with refuses("a.tif", "white"):
        source.size("a")
    options = {**COMMON, "type": "ImagePairDataset", "dataroot_gt": str(tmp_path), "skip_bad": True}
    assert len(open_dataset(dataset_options(**options), "datasets.train")) == 2


def test_a_user_without_a_home_reads_headers_every_time(images: Path, monkeypatch: pytest.MonkeyPatch):
    """A container may run under a number that is nobody's there."""
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    monkeypatch.setattr(inspect_files, "_WORTH_KEEPING", 0)
    assert inspect_files.inspect_files(images, {"0": "0.png"}, lambda path: (64, 80)) == {"0": (64, 80)}
    assert inspect_files.memory_file(images) is None


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, ["64x80", "48x80"]),  # several sizes
        ({"gt_size": 32}, None),
        ({"batch_size_per_gpu": 1}, None),
        ({"dataroot_gt": "same", "use_rot": True}, ["64x80", "80x64"]),  # one size, and transposed
        ({"dataroot_gt": "same"}, None),
    ],
)
def test_samples_that_make_no_batch_are_refused_at_the_start(images, tmp_path, changes, sizes):
    write_textures(tmp_path / "same", 3, 64, 80)
    write(images / "3.png", 48, 80)
    root = tmp_path / changes.pop("dataroot_gt", "images")
    spec = {"type": "ImagePairDataset", "dataroot_gt": str(root), "scale": 2, "batch_size_per_gpu": 2, **changes}
    if sizes is None:
        open_dataset(dataset_options(**spec), "datasets.train")
        return
    with refuses("datasets.train", "gt_size", *sizes):
        open_dataset(dataset_options(**spec), "datasets.train")
    with refuses("datasets.train", "gt_size", *sizes):  # and inside of a mixture
        mix = {"type": "MixDataset", "datasets": [{**spec, "batch_size_per_gpu": None}], "batch_size_per_gpu": 2}
        open_dataset(dataset_options(**mix), "datasets.train")


def test_parts_of_a_mixture_with_other_crops_are_refused(images):
    part = {"type": "ImagePairDataset", "dataroot_gt": str(images), "scale": 2}
    mix = {"type": "MixDataset", "batch_size_per_gpu": 2}
    with refuses("datasets.train", "32x32", "16x16"):
        parts = [{**part, "gt_size": 32}, {**part, "gt_size": 16}]
        open_dataset(dataset_options(**mix, datasets=parts), "datasets.train")


def test_an_epoch_whose_order_fills_the_memory_is_refused_at_the_start(images):
    spec = {"type": "ImagePairDataset", "dataroot_gt": str(images), "scale": 2, "dataset_enlarge_ratio": 10**9}
    with refuses("datasets.train.dataset_enlarge_ratio", "lower it"):
        open_dataset(dataset_options(**spec), "datasets.train")


def test_an_image_too_small_for_a_metric_is_named_before_the_first_validation(tmp_path):
    write_textures(tmp_path / "val", 2, 64, 80)
    write(tmp_path / "val" / "2.png", 16, 80)
    dataset = ImagePairDataset(dataroot_gt=tmp_path / "val", scale=2, phase="val")
    ssim = {"ssim": {"type": "calculate_ssim", "crop_border": 4}}
    with refuses(tmp_path / "val" / "2.png", "val.metrics.ssim", "8x72"):
        evaluator(dataset={"dataroot_gt": str(tmp_path / "val")}, metrics=ssim).check(dataset)
    check_size(16, 80, metric_options(type="calculate_psnr", crop_border=4))
    with refuses("crop_border 8", "16x80"):
        check_size(16, 80, metric_options(type="calculate_psnr", crop_border=8))


def test_images_of_a_store_convert_and_are_verified(images, tmp_path):
    convert_images([images], tmp_path / "images.lmdb")
    for verify in ("first", "headers", "decode"):
        assert len(ImagePairDataset(dataroot_gt=tmp_path / "images.lmdb", verify=verify, **COMMON)) == 6
